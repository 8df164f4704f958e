-- What is kept of a feed, and for how many milliseconds it has been: by this clock alone, whoever wrote it. The same of a failure that
-- was saved later without the answer.
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then return false end
local kept = redis.call('HMGET', KEYS[1], 'v', 'k', 'e', 'a')
local keep_for, left = tonumber(kept[2] or ''), redis.call('PTTL', KEYS[1])
if not kept[1] or not keep_for or left < 0 or left > keep_for then return false end
local since = keep_for - left
return {kept[1], since, kept[3] or '', math.max(since - (tonumber(kept[4] or '') or 0), 0)}
