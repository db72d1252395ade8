# A client gives up, connects again, and writes. Then its old request arrives after all, on the old
# connection: the unknown write takes effect late, once.
machine a starts
expect client 1 puts x = 1
hold client1 -> a for 3s
expect client 1 puts x = 2 and fails
expect client 1 puts x = 3
expect client 2 gets x = 3
wait 2s
expect client 2 gets x = 2
