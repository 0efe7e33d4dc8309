"""Checkers: each names one thing that must never be, and finds it in what a run saw.

answers        every answer is one that S3 knows, none is an internal error
bodies         every byte read was sent, to that key, in that order
buckets        a bucket that is deleted leaves nothing behind
counters       what is kept counted is what a recount of the rows gives
ends           a node ends by itself only where its disk gave it a reason
fragments      every fragment that metadata names is where it says, whole
lists          a list shows what was acknowledged before it began (I3L)
liveness       once faults are over, everything is served again within a minute
loss           what was acknowledged is there in the end
promise        what was below promise is mended in the end
raft           one leader a term; one history; what is committed stays so
registers      each key is linearizable, through whichever nodes
replicas       equal applied index, equal state
resurrection   what was deleted after it was acknowledged is not seen again
"""
