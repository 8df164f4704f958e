-- Lets a lease last for another ARGV[2] milliseconds, if its token still is ARGV[1]; and the token be remembered for ARGV[3].
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
-- As in lease.lua: a value stays as old as it is.
local lives, remember = redis.call('PTTL', KEYS[1]), tonumber(ARGV[3])
if lives > 0 and lives < remember then
    local keep_for = tonumber(redis.call('HGET', KEYS[1], 'k') or '')
    if keep_for then redis.call('HSET', KEYS[1], 'k', string.format('%.0f', keep_for + remember - lives)) end
    redis.call('PEXPIRE', KEYS[1], remember)
end
return redis.call('PEXPIRE', KEYS[2], ARGV[2])
