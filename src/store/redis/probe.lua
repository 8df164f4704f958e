-- Whether this node takes writes and messages: on the channel ARGV[1], which the asker hears.
redis.call('SET', KEYS[3], '', 'PX', 1000)
redis.call('PUBLISH', ARGV[1], '')
return 1
