-- Saves an entry found under a lease, unless one found under a later lease is there; releases the lease; notifies all replicas.
-- ARGV: the lease's token, 0 for none; the entry; its lifetime; the channel; the message.
-- Another program may have written `nan`, or an integer above 2^53, which a number cannot represent.
local function number(text, most)
    local value = tonumber(text or '')
    return value and value >= 0 and value <= (most or 2^53) and value or nil
end
-- Once a script has written, Redis lets it write although memory is full. So it deletes only a key that exists.
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'hash' and kind ~= 'none' then redis.call('DEL', KEYS[1]) end
local fields = redis.call('HMGET', KEYS[1], 'n', 'f', 'v', 'k', 'e')
-- As in lease.lua: a token more than a day ahead is invalid.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local last, fence = number(fields[1], now + 86400000) or 0, number(fields[2], now + 86400000) or 0
local token = tonumber(ARGV[1])
if token == 0 then token = math.max(last + 1, fence + 1, now) end
if token < fence then return 0 end
local text, newest = string.format('%.0f', token), string.format('%.0f', math.max(last, token))
-- An entry with a success begins with the byte 10 (codec.rs). If the new entry has none, its saver did not have the stored success: that
-- keeps its lifetime, and the failure is stored beside it.
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
