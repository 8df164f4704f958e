-- Adds ARGV[1] to the units of a day that were spent with the key of the fingerprint ARGV[2], and returns their sum. Kept for two days: no day
-- is longer. KEYS[1] has the units of all keys. Earlier versions know nothing else: what they have added counts for this key. KEYS[2], no
-- lease here, is a hash: the units of each key, and in `all` those of KEYS[1] that are in it.
-- Not by INCRBY or HINCRBY, for which users with the rights of earlier versions have no right.
local function number(text) return tonumber(text or '') or 0 end
local known = number(redis.call('HGET', KEYS[2], 'all'))
local before = math.max(number(redis.call('GET', KEYS[1])), known)
local sum = number(redis.call('HGET', KEYS[2], ARGV[2])) + before - known + ARGV[1]
local all = string.format('%.0f', before + ARGV[1])
redis.call('SET', KEYS[1], all, 'PX', 172800000)
redis.call('HSET', KEYS[2], 'all', all, ARGV[2], string.format('%.0f', sum))
redis.call('PEXPIRE', KEYS[2], 172800000)
return sum
