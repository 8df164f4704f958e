-- Keeps what was found under a lease, unless something was found under a later one; ends the lease; tells all.
-- ARGV: the lease's token, 0 for none; the value; how long it is kept; the channel; the message.
-- A script that has written may go on to write when memory is full: nothing is deleted that is not there.
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'hash' and kind ~= 'none' then redis.call('DEL', KEYS[1]) end
local fences = redis.call('HMGET', KEYS[1], 'n', 'f')
local last, fence = tonumber(fences[1] or '') or 0, tonumber(fences[2] or '') or 0
local token = tonumber(ARGV[1])
if token == 0 then
    local time = redis.call('TIME')
    token = math.max(last + 1, fence + 1, time[1] * 1000 + math.floor(time[2] / 1000))
end
if token < fence then return 0 end
local text = string.format('%.0f', token)
redis.call('HSET', KEYS[1], 'v', ARGV[2], 'k', ARGV[3], 'f', text, 'n', string.format('%.0f', math.max(last, token)))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
redis.call('PUBLISH', ARGV[4], ARGV[5])
return 1
