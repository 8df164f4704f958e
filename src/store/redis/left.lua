-- How many milliseconds a feed's lease may last. Not positive: there is none.
return redis.call('PTTL', KEYS[2])
