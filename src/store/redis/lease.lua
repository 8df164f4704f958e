-- Acquires the lease of a feed and returns its token. If another replica holds it: returns its remaining milliseconds, negated.
-- ARGV: the lifetime of a lease; how long its token has to be remembered.
-- Another program may have written `nan`, or an integer above 2^53, which a number cannot represent.
local function number(text, most)
    local value = tonumber(text or '')
    return value and value >= 0 and value <= (most or 2^53) and value or nil
end
-- Ignores a lease that lasts more than ten times as long: replicas may have different lifetimes, but not that different.
local left = redis.call('PTTL', KEYS[2])
if left > 0 and left <= 10 * tonumber(ARGV[1]) then return -left end
-- Once a script has written, Redis lets it write although memory is full. So it deletes only a key that exists.
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'hash' and kind ~= 'none' then redis.call('DEL', KEYS[1]) end
-- Tokens are times, so that they grow even after all data was lost, and at least one more than the last, whatever the clock does. A
-- last token more than a day ahead is invalid.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local last = number(redis.call('HGET', KEYS[1], 'n'), now + 86400000) or 0
local token = math.max(last + 1, now)
local text = string.format('%.0f', token)
redis.call('SET', KEYS[2], text, 'PX', ARGV[1])
redis.call('HSET', KEYS[1], 'n', text)
-- Extends the expiry of an entry without changing its age, which is k minus the time to live. Without an expiry it has no age.
local lives, remember = redis.call('PTTL', KEYS[1]), tonumber(ARGV[2])
if lives < remember then
    local keep_for = number(redis.call('HGET', KEYS[1], 'k'))
    if keep_for then
        redis.call('HSET', KEYS[1], 'k', lives < 0 and '' or string.format('%.0f', keep_for + remember - lives))
    end
    redis.call('PEXPIRE', KEYS[1], remember)
end
return token
