-- Loads the entry of a feed and the milliseconds since it was saved, by the server's clock. Likewise a failure that was saved later
-- without the success. ARGV: the longest that either may be, in bytes.
-- Another program may have written `nan`, or an integer above 2^53, which a number cannot represent.
local function number(text, most)
    local value = tonumber(text or '')
    return value and value >= 0 and value <= (most or 2^53) and value or nil
end
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then return false end
local kept = redis.call('HMGET', KEYS[1], 'v', 'k', 'e', 'a')
local keep_for, left = number(kept[2]), redis.call('PTTL', KEYS[1])
if not kept[1] or not keep_for or left < 0 or left > keep_for then return false end
if #kept[1] > tonumber(ARGV[1]) or #(kept[3] or '') > tonumber(ARGV[1]) then return false end
local since = keep_for - left
return {kept[1], since, kept[3] or '', math.max(since - (number(kept[4]) or 0), 0)}
