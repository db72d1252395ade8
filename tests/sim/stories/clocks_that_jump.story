# Neither a wall clock that jumps nor one that runs wrong loses a write.
machine a starts
expect client 1 puts x = 1
clock a jumps by +1h
expect client 1 puts x = 2
clock a jumps by -2h
expect client 1 puts x = 3
expect client 2 gets x = 3
clock a runs at -300000ppm
expect client 1 swaps x from 3 to 4
machine a loses power
clock a jumps by -3h
machine a starts
clock a runs at +300000ppm
client 2 gets x          # resets the connection that the node forgot
expect client 2 gets x = 4
client 1 gets x
expect client 1 puts x = 5
machine a crashes
machine a starts
expect client 2 gets x = 5
