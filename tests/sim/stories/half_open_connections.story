# One end of a connection is gone and the other does not know.
machine a starts
expect client 1 puts x = 1
machine a forgets client1
expect client 1 puts x = 2 and fails
expect client 1 gets x = 1
machine client1 forgets a
expect client 1 gets x and fails
expect client 1 gets x = 1
machine a loses power
machine a starts
expect client 1 gets x and fails
expect client 1 gets x = 1
