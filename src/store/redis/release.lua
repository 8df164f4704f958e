-- Ends a lease, if its token still is ARGV[1], and tells on the channel ARGV[2], by the message ARGV[3], those who wait.
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2])
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 1
