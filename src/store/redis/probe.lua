-- Checks that this node accepts writes and messages, by a message on the channel ARGV[1], to which the caller is subscribed.
redis.call('SET', KEYS[3], '', 'PX', 1000)
redis.call('PUBLISH', ARGV[1], '')
return 1
