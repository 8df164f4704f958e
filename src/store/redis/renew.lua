-- Lets a lease last for another ARGV[2] milliseconds, if its token still is ARGV[1].
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[2], ARGV[2])
