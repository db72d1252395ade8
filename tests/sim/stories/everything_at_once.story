# Clients work while one fault follows the other.
machine a starts with 2 reactors
4 clients work on 2 keys
after 200ms cut clients -> a
after 100ms machine a loses power
after 50ms heal
machine a starts
after 100ms disk a takes 1ms to 40ms
after 100ms pause a inside a turn for 800ms after 20 calls
after 300ms machine a crashes
machine a starts
disk a recovers
after 100ms hold clients -> a for 2s
after 20ms reset a -- client1
after 100ms disk a hangs
after 300ms power fails everywhere
disk a recovers
machine a starts
at 10s clients stop
