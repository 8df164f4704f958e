-- Adds ARGV[1] to the units of a day, and returns their sum. Kept for two days: no day is longer.
local sum = redis.call("INCRBY", KEYS[1], ARGV[1])
redis.call("PEXPIRE", KEYS[1], 172800000)
return sum
