-- Gives the lease of a feed: its token. Where another has it: how many milliseconds that may last, negative.
-- ARGV: how long a lease lasts; how long its token has to be remembered.
-- Whoever else writes here may have written `nan`, or more than a number holds to the unit.
local function number(text, most)
    local value = tonumber(text or '')
    return value and value >= 0 and value <= (most or 2^53) and value or nil
end
-- One that may last for more than ten times as long is nobody's: replicas' leases may differ, but not by so much.
local left = redis.call('PTTL', KEYS[2])
if left > 0 and left <= 10 * tonumber(ARGV[1]) then return -left end
-- A script that has written may go on to write when memory is full: nothing is deleted that is not there.
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'hash' and kind ~= 'none' then redis.call('DEL', KEYS[1]) end
-- Tokens are times, so that they go on growing when everything was lost; and one more than the last, whatever the clock does. One
-- that is more than a day ahead is none.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local last = number(redis.call('HGET', KEYS[1], 'n'), now + 86400000) or 0
local token = math.max(last + 1, now)
local text = string.format('%.0f', token)
redis.call('SET', KEYS[2], text, 'PX', ARGV[1])
redis.call('HSET', KEYS[1], 'n', text)
-- A value that expires earlier stays as long, and as old: its age is k less the time to live. Without an expiry it has no age.
local lives, remember = redis.call('PTTL', KEYS[1]), tonumber(ARGV[2])
if lives < remember then
    local keep_for = number(redis.call('HGET', KEYS[1], 'k'))
    if keep_for then
        redis.call('HSET', KEYS[1], 'k', lives < 0 and '' or string.format('%.0f', keep_for + remember - lives))
    end
    redis.call('PEXPIRE', KEYS[1], remember)
end
return token
