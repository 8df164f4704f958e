-- Without arguments: loads the channel of a name, and the milliseconds that it may still be kept. With ARGV: saves the channel ARGV[1] for
-- ARGV[2] milliseconds.
if ARGV[1] then
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
    return false
end
-- Another program may have written something else, or something long.
if redis.call('TYPE', KEYS[1]).ok ~= 'string' or redis.call('STRLEN', KEYS[1]) > 4096 then return false end
return {redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1])}
