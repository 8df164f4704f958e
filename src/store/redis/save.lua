-- Keeps what was found under a lease, unless something was found under a later one; ends the lease; tells all.
-- ARGV: the lease's token, 0 for none; the value; how long it is kept; the channel; the message.
-- Whoever else writes here may have written `nan`, or more than a number holds to the unit.
local function number(text, most)
    local value = tonumber(text or '')
    return value and value >= 0 and value <= (most or 2^53) and value or nil
end
-- A script that has written may go on to write when memory is full: nothing is deleted that is not there.
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'hash' and kind ~= 'none' then redis.call('DEL', KEYS[1]) end
local fields = redis.call('HMGET', KEYS[1], 'n', 'f', 'v', 'k', 'e')
-- As in lease.lua: a token that is more than a day ahead is none.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local last, fence = number(fields[1], now + 86400000) or 0, number(fields[2], now + 86400000) or 0
local token = tonumber(ARGV[1])
if token == 0 then token = math.max(last + 1, fence + 1, now) end
if token < fence then return 0 end
local text, newest = string.format('%.0f', token), string.format('%.0f', math.max(last, token))
-- A value with a good answer begins with the byte 10 (kept.rs). If the new value has none, its saver did not know it: the
-- answer stays for as long as it would, and the failure is kept beside it.
local function has_answer(value) return value and value:byte(1) == 10 end
local keep_for, left = number(fields[4]), redis.call('PTTL', KEYS[1])
local is_readable = keep_for and left >= 0 and left <= keep_for
if is_readable and has_answer(fields[3]) and not has_answer(ARGV[2]) then
    redis.call('HSET', KEYS[1], 'e', ARGV[2], 'a', string.format('%.0f', keep_for - left), 'f', text, 'n', newest)
else
    redis.call('HSET', KEYS[1], 'v', ARGV[2], 'k', ARGV[3], 'f', text, 'n', newest)
    if fields[5] then redis.call('HSET', KEYS[1], 'e', '') end
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
redis.call('PUBLISH', ARGV[4], ARGV[5])
return 1
