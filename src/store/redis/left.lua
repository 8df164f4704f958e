-- The remaining milliseconds of a feed's lease. Not positive: there is none.
return redis.call('PTTL', KEYS[2])
