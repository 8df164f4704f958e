-- Gives the lease of a feed: its token. Where another has it: how many milliseconds that may last, negative.
-- ARGV: how long a lease lasts, how long the feed is remembered.
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
if redis.call('PTTL', KEYS[1]) < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return token
