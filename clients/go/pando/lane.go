package pando

import (
	"crypto/rand"
	"sync"
)

// lane gives writes the names by which the servers apply each of them once, however often it is sent. It has one write
// in flight.
type lane struct {
	id       []byte
	sequence int64
}

// lanes are those that have no write in flight. The one that was used last is used next, so that there are few.
type lanes struct {
	mu   sync.Mutex
	free []*lane
}

func (l *lanes) take() *lane {
	l.mu.Lock()
	if last := len(l.free) - 1; last >= 0 {
		taken := l.free[last]
		l.free = l.free[:last]
		l.mu.Unlock()
		taken.sequence++
		return taken
	}
	l.mu.Unlock()
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		panic("pando: the operating system has no random numbers: " + err.Error())
	}
	return &lane{id: id, sequence: 1}
}

// put gives a lane back. One whose write has an unknown outcome must not come back: that write may still arrive.
func (l *lanes) put(free *lane) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.free = append(l.free, free)
}
