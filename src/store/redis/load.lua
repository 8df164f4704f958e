-- What is kept of a feed, and for how many milliseconds it has been: by this clock alone, whoever wrote it.
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then return false end
local kept = redis.call('HMGET', KEYS[1], 'v', 'k')
local keep_for, left = tonumber(kept[2] or ''), redis.call('PTTL', KEYS[1])
if not kept[1] or not keep_for or left < 0 or left > keep_for then return false end
return {kept[1], keep_for - left}
