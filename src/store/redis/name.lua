-- Without ARGV: loads the channel of a name, and the milliseconds for which it may still be kept. Otherwise saves the channel ARGV[1] for
-- ARGV[2] milliseconds.
if ARGV[1] then
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
    return false
end
-- Another program may have written something else there, or something long.
if redis.call('TYPE', KEYS[1]).ok ~= 'string' then return false end
local channel, left = redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1])
if #channel > 4096 or left < 0 then return false end
return {channel, left}
