//go:build !unix

package pando

// isAlive cannot look without waiting here. A connection that the server has closed is noticed when it is used.
func (c *conn) isAlive() bool { return c.reader.Buffered() == 0 }
