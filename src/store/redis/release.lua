-- Releases a lease if its token is ARGV[1], and notifies waiters by the message ARGV[3] on the channel ARGV[2].
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2])
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 1
