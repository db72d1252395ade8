package pando

import (
	"context"
	"errors"
	"math/rand"
	"net"
	"strings"
	"sync"
	"time"

	"pando.dev/go/internal/gen"
)

const (
	// An address that has failed is avoided for so long, if there are others.
	avoidAfterFailure = time.Second
	// An idle connection is closed after so long.
	maxIdle = 5 * time.Minute
)

// address is one server. The pool's mutex guards its fields.
type address struct {
	name       string
	avoidUntil time.Time
	idle       []*conn // the one that was used last is the last
}

// pool holds the connections of a client. A call has a connection for itself. At most Config.PoolSize of them are with
// calls. One is opened only when none to its address is idle, so there are no more than that to each address. Those of
// watchers are not counted.
//
// It prefers the address that works, and begins with one at random. A call that a server has sent to another address (its
// target) does not change that: other calls may be for other partitions.
type pool struct {
	config Config
	slots  chan struct{} // one for each connection that a call may hold
	closed chan struct{}

	mu        sync.Mutex
	addresses []*address
	preferred int
	open      map[*conn]bool
	isClosed  bool
}

func newPool(config Config) *pool {
	p := &pool{config: config, slots: make(chan struct{}, config.PoolSize), closed: make(chan struct{}),
		open: map[*conn]bool{}}
	for _, name := range config.Addresses {
		p.addresses = append(p.addresses, &address{name: name})
	}
	p.preferred = rand.New(rand.NewSource(time.Now().UnixNano())).Intn(len(p.addresses))
	return p
}

// close closes all connections, also those that calls are waiting at.
func (p *pool) close() {
	p.mu.Lock()
	if p.isClosed {
		p.mu.Unlock()
		return
	}
	p.isClosed = true
	close(p.closed)
	all := make([]*conn, 0, len(p.open))
	for c := range p.open {
		all = append(all, c)
	}
	p.mu.Unlock()
	for _, c := range all {
		c.close()
	}
}

// take returns a connection: an idle one, or a new one, to the target if that is not nil and works. Give it back with put, or
// close it with drop.
func (p *pool) take(ctx context.Context, deadline time.Time, target *address) (*conn, error) {
	if p.wasClosed() {
		return nil, ErrClosed
	}
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case p.slots <- struct{}{}:
	case <-timer.C:
		return nil, errPoolBusy
	case <-ctx.Done():
		return nil, errPoolBusy
	case <-p.closed:
		return nil, ErrClosed
	}
	c, err := p.find(ctx, deadline, target, true)
	if err != nil {
		<-p.slots
	}
	return c, err
}

var errPoolBusy = errors.New("all connections of the pool were in use; Config.PoolSize is their number")

// put gives a connection back that take has returned, and on which no reply is missing.
func (p *pool) put(c *conn) {
	p.mu.Lock()
	if p.isClosed {
		p.mu.Unlock()
		p.drop(c)
		return
	}
	now := time.Now()
	c.used, c.idleSince = true, now
	c.address.idle = append(c.address.idle, c)
	old := p.removeOldLocked(now)
	p.mu.Unlock()
	<-p.slots
	for _, c := range old {
		c.close()
	}
}

// drop closes a connection that take has returned.
func (p *pool) drop(c *conn) {
	c.close()
	<-p.slots
}

// removeOldLocked removes from the pool, for the caller to close, what was idle for long.
func (p *pool) removeOldLocked(now time.Time) []*conn {
	var old []*conn
	for _, a := range p.addresses {
		for len(a.idle) > 0 && now.Sub(a.idle[0].idleSince) > maxIdle {
			old = append(old, a.idle[0])
			a.idle = a.idle[1:]
		}
	}
	return old
}

func (p *pool) wasClosed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.isClosed
}

// find tries the addresses from the target on, or from the preferred one: those that have not failed lately, if there are
// any. With `idle`, it may return a connection that lay idle.
func (p *pool) find(ctx context.Context, deadline time.Time, target *address, idle bool) (*conn, error) {
	var last error
	for _, a := range p.inOrder(target) {
		for idle {
			c := p.takeIdle(a)
			if c == nil {
				break
			}
			if c.isAlive() {
				return c, nil
			}
			c.close()
		}
		c, err := p.connect(ctx, a, deadline)
		if err == nil {
			return c, nil
		}
		last = err
		if errors.Is(err, ErrClosed) || ctx.Err() != nil || !time.Now().Before(deadline) || isFinal(err) {
			break
		}
	}
	return nil, last
}

// isFinal: a server has refused hello for good, so others would too.
func isFinal(err error) bool {
	var refusal *gen.KvError
	return errors.As(err, &refusal) && !refusal.Retryable
}

func (p *pool) inOrder(target *address) []*address {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	good := make([]*address, 0, len(p.addresses))
	var avoided []*address
	first := p.preferred
	if target != nil {
		first = p.indexOf(target)
	}
	for i := range p.addresses {
		a := p.addresses[(first+i)%len(p.addresses)]
		if now.Before(a.avoidUntil) {
			avoided = append(avoided, a)
		} else {
			good = append(good, a)
		}
	}
	if len(good) > 0 {
		return good
	}
	return avoided
}

func (p *pool) takeIdle(a *address) *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(a.idle) == 0 || p.isClosed {
		return nil
	}
	last := len(a.idle) - 1
	c := a.idle[last]
	a.idle = a.idle[:last]
	return c
}

// connect opens a connection and says hello. It belongs to the caller; take and put do the counting.
func (p *pool) connect(ctx context.Context, a *address, deadline time.Time) (*conn, error) {
	if until := time.Now().Add(p.config.ConnectTimeout); until.Before(deadline) {
		deadline = until
	}
	dialer := net.Dialer{Deadline: deadline}
	nc, err := dialer.DialContext(ctx, "tcp", a.name)
	if err != nil {
		p.failed(a)
		return nil, &TransportError{Address: a.name, Err: err}
	}
	c := newConn(nc, a, p.forget)
	p.mu.Lock()
	if p.isClosed {
		p.mu.Unlock()
		nc.Close()
		return nil, ErrClosed
	}
	p.open[c] = true
	p.mu.Unlock()
	if err := c.sayHello(ctx, p.config.ClientName, deadline); err != nil {
		c.close()
		p.failed(a)
		return nil, helloError(err)
	}
	p.works(a)
	return c, nil
}

// helloError: the request that the connection was opened for was certainly not sent.
func helloError(err error) error {
	var transport *TransportError
	if errors.As(err, &transport) {
		transport.Sent = false
	}
	return err
}

func (p *pool) forget(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, c)
}

// failed makes the next calls prefer another address.
func (p *pool) failed(a *address) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a.avoidUntil = time.Now().Add(avoidAfterFailure)
	p.moveOnLocked(a)
}

// afterRefusal returns whom to ask after `from`, which cannot serve a request and names `master`: that one, if it is one of
// the addresses and has not failed lately (isNamed), or the one after `from`.
func (p *pool) afterRefusal(from *address, master string) (next *address, isNamed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range p.addresses {
		if isSameAddress(a.name, master) && a != from && !time.Now().Before(a.avoidUntil) {
			return a, true
		}
	}
	return p.addresses[(p.indexOf(from)+1)%len(p.addresses)], false
}

// splitAddress splits "host:port" as users and servers write it: also with spaces around it, and "::1:7450".
func splitAddress(text string) (host, port string, ok bool) {
	text = strings.TrimSpace(text)
	if host, port, err := net.SplitHostPort(text); err == nil {
		return host, port, true
	}
	colon := strings.LastIndexByte(text, ':')
	if colon < 0 {
		return "", "", false
	}
	return text[:colon], text[colon+1:], true
}

// isSameAddress compares hosts and ports. It does not resolve names.
func isSameAddress(a, b string) bool {
	hostOfA, portOfA, ok := splitAddress(a)
	if !ok {
		return false
	}
	hostOfB, portOfB, ok := splitAddress(b)
	return ok && portOfA == portOfB && strings.EqualFold(hostOfA, hostOfB)
}

// indexOf needs no lock: the list does not change.
func (p *pool) indexOf(a *address) int {
	for i, other := range p.addresses {
		if other == a {
			return i
		}
	}
	panic("an address of another pool")
}

// moveOn makes the next calls prefer another address than `a`.
func (p *pool) moveOn(a *address) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.moveOnLocked(a)
}

func (p *pool) moveOnLocked(a *address) {
	if p.addresses[p.preferred] == a {
		p.preferred = (p.preferred + 1) % len(p.addresses)
	}
}

// works ends the time in which the address is avoided. The next calls prefer it if what they prefer now has failed.
func (p *pool) works(a *address) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a.avoidUntil = time.Time{}
	if time.Now().Before(p.addresses[p.preferred].avoidUntil) {
		p.preferred = p.indexOf(a)
	}
}

// closeIdle closes the idle connections to an address, after one of them turned out to be broken.
func (p *pool) closeIdle(a *address) {
	p.mu.Lock()
	idle := a.idle
	a.idle = nil
	p.mu.Unlock()
	for _, c := range idle {
		c.close()
	}
}

// ownConn is the connection of a watcher: a call that waits for long would keep others from theirs.
type ownConn struct {
	mu   sync.Mutex
	conn *conn
}

func (o *ownConn) take(ctx context.Context, p *pool, deadline time.Time, target *address) (*conn, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.conn == nil {
		c, err := p.find(ctx, deadline, target, false)
		if err != nil {
			return nil, err
		}
		o.conn = c
	}
	return o.conn, nil
}

func (o *ownConn) drop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.conn != nil {
		o.conn.close()
		o.conn = nil
	}
}
