# The node stops between two steps of one turn. Nothing is lost and nothing is done twice.
machine a starts
expect client 1 puts x = 1
pause a inside a turn for 5s after 5 calls
expect client 1 puts x = 2 and fails
wait 5s
expect client 2 gets x = 2
freeze a for 5s
expect client 1 adds 1 to x and fails
wait 5s
expect client 2 gets x = 3
