module pando.dev/go

// Debian 12 has this version. Range-over-func needs Go 1.23 in the program that ranges, not here.
go 1.19

require github.com/apache/thrift v0.17.0
