-- Gives the lease of a feed: its token. Where another has it: how many milliseconds that may last, negative.
-- ARGV: how long a lease lasts; how long its token has to be remembered.
local left = redis.call('PTTL', KEYS[2])
if left > 0 then return -left end
-- A script that has written may go on to write when memory is full: nothing is deleted that is not there.
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'hash' and kind ~= 'none' then redis.call('DEL', KEYS[1]) end
-- Tokens are times, so that they go on growing when everything was lost; and one more than the last, whatever the clock does.
local time = redis.call('TIME')
local last = tonumber(redis.call('HGET', KEYS[1], 'n') or '') or 0
local token = math.max(last + 1, time[1] * 1000 + math.floor(time[2] / 1000))
local text = string.format('%.0f', token)
redis.call('SET', KEYS[2], text, 'PX', ARGV[1])
redis.call('HSET', KEYS[1], 'n', text)
-- A value that expires earlier stays as long, and as old: its age is k less the time to live. Without an expiry it has no age.
local lives, remember = redis.call('PTTL', KEYS[1]), tonumber(ARGV[2])
if lives < remember then
    local keep_for = tonumber(redis.call('HGET', KEYS[1], 'k') or '')
    if keep_for then
        redis.call('HSET', KEYS[1], 'k', lives < 0 and '' or string.format('%.0f', keep_for + remember - lives))
    end
    redis.call('PEXPIRE', KEYS[1], remember)
end
return token
