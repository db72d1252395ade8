# The request arrives, but its answer does not: the client cannot know what happened.
machine a starts
expect client 1 puts x = 1
expect client 2 gets x = 1
cut a -> client1
expect client 1 puts x = 2 and fails
expect client 2 gets x = 2
heal
expect client 1 gets x = 2
