# While syncs hang nothing is acknowledged, and reads see only what is durable.
machine a starts
expect client 1 puts x = 1
disk a hangs in syncs
expect client 1 puts x = 2 and fails
expect client 2 gets x = 1
disk a recovers
wait 1s
expect client 2 gets x = 2
disk a takes 50ms to 90ms
expect client 1 puts x = 3
disk a recovers
expect client 2 gets x = 3
