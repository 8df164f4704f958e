-- Adds ARGV[1] to the units of a day, and returns their sum. Kept for two days: no day is longer. Not by INCRBY, for which users with the rights
-- of earlier versions have no right.
local sum = (tonumber(redis.call('GET', KEYS[1]) or '') or 0) + tonumber(ARGV[1])
redis.call('SET', KEYS[1], string.format('%.0f', sum), 'PX', 172800000)
return sum
