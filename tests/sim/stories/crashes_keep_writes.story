# What was acknowledged survives the death of the process and a loss of power.
machine a starts
expect client 1 puts x = 1
expect client 1 puts y = 1
machine a crashes
expect client 1 puts x = 5 and fails
machine a starts
expect client 2 gets x = 1
expect client 2 swaps y from 1 to 2
expect client 1 swaps y from 1 to 3 and is refused
power fails everywhere
machine a starts
client 1 gets y          # resets the connection that the node forgot
expect client 1 gets y = 2
expect client 1 adds 40 to y and gets 42
expect client 1 removes x
machine a loses power
machine a starts
client 2 gets x
expect client 2 gets x = nothing
expect client 2 gets y = 42
