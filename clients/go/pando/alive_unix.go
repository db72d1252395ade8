//go:build unix

package pando

import (
	"syscall"
	"time"
)

// isAlive looks, without waiting, whether the server has closed an idle connection, or sent what nobody asked for.
func (c *conn) isAlive() bool {
	if c.reader.Buffered() > 0 {
		return false
	}
	system, ok := c.net.(syscall.Conn)
	if !ok {
		return true
	}
	c.net.SetDeadline(time.Time{}) // that of its last request has passed
	raw, err := system.SyscallConn()
	if err != nil {
		return false
	}
	alive := false
	err = raw.Read(func(fd uintptr) bool {
		var one [1]byte
		_, err := syscall.Read(int(fd), one[:])
		alive = err == syscall.EAGAIN || err == syscall.EWOULDBLOCK
		return true
	})
	return err == nil && alive
}
