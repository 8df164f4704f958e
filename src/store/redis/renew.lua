-- Renews a lease for ARGV[2] milliseconds if its token is ARGV[1]; the token is remembered for ARGV[3] milliseconds.
-- Another program may have written `nan`, or an integer above 2^53, which a number cannot represent.
local function number(text, most)
    local value = tonumber(text or '')
    return value and value >= 0 and value <= (most or 2^53) and value or nil
end
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
-- As in lease.lua: the age of the entry does not change.
local lives, remember = redis.call('PTTL', KEYS[1]), tonumber(ARGV[3])
if lives > 0 and lives < remember then
    local keep_for = number(redis.call('HGET', KEYS[1], 'k'))
    if keep_for then redis.call('HSET', KEYS[1], 'k', string.format('%.0f', keep_for + remember - lives)) end
    redis.call('PEXPIRE', KEYS[1], remember)
end
return redis.call('PEXPIRE', KEYS[2], ARGV[2])
