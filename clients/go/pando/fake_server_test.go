package pando

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/apache/thrift/lib/go/thrift"

	"pando.dev/go/internal/gen"
)

// request is what a fake server has received.
type request struct {
	method     string
	seq        int32
	connection int
	context    *gen.Context
	body       *thrift.TBinaryProtocol // at field 2 of the arguments
}

// fakeServer answers hello by itself, and the n-th other request with the n-th answer of its script; the last answer
// serves for all further ones.
type fakeServer struct {
	t        *testing.T
	listener net.Listener
	script   []answer

	mu          sync.Mutex
	requests    []request
	connections []net.Conn
	hellos      int
	hello       func() (*gen.HelloReply, *gen.KvError)
}

// answer writes a reply to the connection. If it returns false, the server closes the connection.
type answer func(w net.Conn, r request) bool

func newFakeServer(t *testing.T, script ...answer) *fakeServer {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &fakeServer{t: t, listener: listener, script: script}
	t.Cleanup(s.stop)
	go s.accept()
	return s
}

func (s *fakeServer) address() string { return s.listener.Addr().String() }

func (s *fakeServer) stop() {
	s.listener.Close()
	s.closeConnections()
}

func (s *fakeServer) closeConnections() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.connections {
		c.Close()
	}
}

func (s *fakeServer) accept() {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.connections = append(s.connections, c)
		number := len(s.connections)
		s.mu.Unlock()
		go s.serve(c, number)
	}
}

func (s *fakeServer) serve(c net.Conn, number int) {
	defer c.Close()
	for {
		var head [4]byte
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return
		}
		frame := make([]byte, binary.BigEndian.Uint32(head[:]))
		if _, err := io.ReadFull(c, frame); err != nil {
			return
		}
		if !s.answerTo(frame, number)(c) {
			return
		}
	}
}

func (s *fakeServer) answerTo(frame []byte, number int) func(net.Conn) bool {
	ctx := context.Background()
	in := thrift.NewTBinaryProtocolConf(&thrift.TMemoryBuffer{Buffer: bytes.NewBuffer(frame)}, nil)
	method, _, seq, err := in.ReadMessageBegin(ctx)
	if err != nil {
		s.t.Error(err)
	}
	r := request{method: method, seq: seq, connection: number, context: &gen.Context{}, body: in}
	in.ReadStructBegin(ctx)
	in.ReadFieldBegin(ctx)
	if err := r.context.Read(ctx, in); err != nil {
		s.t.Error(err)
	}
	in.ReadFieldEnd(ctx)
	in.ReadFieldBegin(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if method == "hello" {
		s.hellos++
		reply, refusal := fakeHello(), (*gen.KvError)(nil)
		if s.hello != nil {
			reply, refusal = s.hello()
		}
		return func(c net.Conn) bool { return send(c, r, &gen.KvHelloResult{Success: reply, Error: refusal}) }
	}
	s.requests = append(s.requests, r)
	if len(s.script) == 0 {
		s.t.Errorf("nobody expects %s", method)
		return func(net.Conn) bool { return false }
	}
	next := s.script[0]
	if len(s.script) > 1 {
		s.script = s.script[1:]
	}
	return func(c net.Conn) bool { return next(c, r) }
}

func (s *fakeServer) seen() []request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]request(nil), s.requests...)
}

const fakeNowMs = 1_700_000_000_000

func fakeHello() *gen.HelloReply {
	return &gen.HelloReply{ServerVersion: "fake", NowMs: fakeNowMs, Features: []string{"idempotent_writes", "clocks"}}
}

func frameOf(method string, kind thrift.TMessageType, seq int32, body thrift.TStruct) []byte {
	ctx := context.Background()
	out := thrift.NewTMemoryBuffer()
	out.Write([]byte{0, 0, 0, 0})
	protocol := thrift.NewTBinaryProtocolConf(out, nil)
	protocol.WriteMessageBegin(ctx, method, kind, seq)
	if body != nil {
		body.Write(ctx, protocol)
	}
	frame := out.Bytes()
	binary.BigEndian.PutUint32(frame, uint32(len(frame)-4))
	return frame
}

func send(c net.Conn, r request, body thrift.TStruct) bool {
	_, err := c.Write(frameOf(r.method, thrift.REPLY, r.seq, body))
	return err == nil
}

// Answers.

func gives(body thrift.TStruct) answer {
	return func(c net.Conn, r request) bool { return send(c, r, body) }
}

func givesRecord(value string) answer {
	return gives(&gen.KvGetResult{Success: &gen.GetReply{Record: &gen.Record{Found: true, Value: []byte(value)}}})
}

func applies(version int64) answer {
	return gives(&gen.KvPutResult{Success: &gen.WriteResult_{Applied: true, Version: version}})
}

// refuses works for all methods: the error is field 1 of each result.
func refuses(e gen.KvError) answer { return gives(&gen.KvGetResult{Error: &e}) }

func cuts(net.Conn, request) bool { return false }

func hangs(c net.Conn, r request) bool {
	io.Copy(io.Discard, c)
	return false
}

func writes(bytes []byte, goOn bool) answer {
	return func(c net.Conn, r request) bool {
		c.Write(bytes)
		return goOn
	}
}

func newTestClient(t *testing.T, config Config, servers ...*fakeServer) *Client {
	for _, s := range servers {
		config.Addresses = append(config.Addresses, s.address())
	}
	if config.Timeout == 0 {
		config.Timeout = 5 * time.Second
	}
	client, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}
