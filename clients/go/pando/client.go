package pando

import (
	"context"
	"fmt"
	"math/rand"
	"net"
	"strings"
	"time"

	"pando.dev/go/internal/gen"
)

// Level is a consistency level. A level for writes is refused with a read, and a level for reads with a write.
type Level int32

const (
	// LevelDefault is LevelQuorum for writes and LevelLinearizable for reads.
	LevelDefault Level = gen.LEVEL_DEFAULT
	// LevelOne: a write is on the master's disk. It may be lost. Only for puts and removes without conditions. It has no
	// name, so it is repeated only if it was certainly not applied.
	LevelOne Level = gen.LEVEL_ONE
	// LevelQuorum: a write is on the disks of a quorum.
	LevelQuorum Level = gen.LEVEL_QUORUM
	// LevelAll: a write is on the disks of all replicas.
	LevelAll Level = gen.LEVEL_ALL
	// LevelLinearizable: a read sees every write that was acknowledged before the read began.
	LevelLinearizable Level = gen.LEVEL_LINEARIZABLE
	// LevelBounded: a read, at any replica, sees what was acknowledged MaxStaleness before it began.
	LevelBounded Level = gen.LEVEL_BOUNDED
	// LevelSession: a read, at any replica, sees all that its Session has seen.
	LevelSession Level = gen.LEVEL_SESSION
)

// Config is the configuration of a Client. A field that is left out has its default value.
type Config struct {
	// Addresses of one or several routers, or of one node, as "host:port".
	Addresses []string
	// Timeout of a call whose context has no deadline (default 10 s).
	Timeout time.Duration
	// ConnectTimeout is the time for a connection and its first request (default 2 s).
	ConnectTimeout time.Duration
	// PoolSize is how many calls may be with the servers at once (default 8). Further ones wait for a connection.
	// There are at most so many connections to each address.
	PoolSize int
	// ClientName is for the logs and metrics of the servers.
	ClientName string
	// ReadLevel is the level of reads that do not name one.
	ReadLevel Level
	// MaxStaleness is that of reads that do not name one, with LevelBounded.
	MaxStaleness time.Duration
	// WriteLevel is the level of writes that do not name one.
	WriteLevel Level
}

// Client is a client of a cluster, or of a node. It is safe for use by several goroutines. Its calls read at
// Config.ReadLevel. Close it when it is not used any more.
type Client struct{ calls }

// New returns a client. It connects when it is first used, so New does not fail because a server is down.
func New(config Config) (*Client, error) {
	if len(config.Addresses) == 0 {
		return nil, badRequest("new", "Config.Addresses is empty; give the address of a router as \"host:port\"")
	}
	config.Addresses = append([]string(nil), config.Addresses...)
	for i, name := range config.Addresses {
		config.Addresses[i] = strings.TrimSpace(name)
		if _, _, err := net.SplitHostPort(config.Addresses[i]); err != nil {
			return nil, badRequest("new", "%q is not an address as \"host:port\": %v", name, err)
		}
	}
	for _, value := range []int64{int64(config.Timeout), int64(config.ConnectTimeout), int64(config.PoolSize)} {
		if value < 0 {
			return nil, badRequest("new", "Timeout, ConnectTimeout and PoolSize of a Config must not be negative")
		}
	}
	if config.Timeout == 0 {
		config.Timeout = 10 * time.Second
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = 2 * time.Second
	}
	if config.PoolSize == 0 {
		config.PoolSize = 8
	}
	c := &core{config: config, pool: newPool(config), random: rand.New(rand.NewSource(time.Now().UnixNano()))}
	return &Client{calls{reads{core: c}}}, nil
}

// Close closes all connections. Calls that are running, and later ones, return ErrClosed.
func (c *Client) Close() error {
	c.core.pool.close()
	return nil
}

// Limits of a server. Requests beyond them are refused with TOO_LARGE or BAD_REQUEST.
type Limits struct {
	MaxKeyBytes, MaxValueBytes int
	MaxBatchOps, MaxBatchBytes int
	MaxMultiGetKeys            int
	MaxFrameBytes              int
	MaxScanRows, MaxScanBytes  int
}

// ServerInfo is what a server says of itself.
type ServerInfo struct {
	// Version of the server.
	Version string
	// APIVersion is that of the interface which it serves.
	APIVersion int
	// ClusterID is the UUID of the cluster, or of the node's store.
	ClusterID string
	// Features are the optional parts of the interface that it has.
	Features []string
	Limits   Limits
}

// ServerInfo asks one of the servers for its version, features and limits.
func (c *Client) ServerInfo(ctx context.Context) (ServerInfo, error) {
	op := &operation{method: "hello"}
	r, err := invoke(ctx, c.core, op, func(ctx context.Context, kv *gen.KvClient, with *gen.Context) (*gen.HelloReply, error) {
		return kv.Hello(ctx, with, &gen.HelloRequest{ClientName: c.core.config.ClientName, APIVersion: apiVersion})
	})
	if err != nil {
		return ServerInfo{}, err
	}
	info := ServerInfo{Version: r.ServerVersion, APIVersion: int(r.APIVersion), ClusterID: r.ClusterID, Features: r.Features}
	if l := r.Limits; l != nil {
		info.Limits = Limits{MaxKeyBytes: int(l.MaxKeyBytes), MaxValueBytes: int(l.MaxValueBytes),
			MaxBatchOps: int(l.MaxBatchOps), MaxBatchBytes: int(l.MaxBatchBytes), MaxMultiGetKeys: int(l.MaxMultiGetKeys),
			MaxFrameBytes: int(l.MaxFrameBytes), MaxScanRows: int(l.MaxScanRows), MaxScanBytes: int(l.MaxScanBytes)}
	}
	return info, nil
}

// String returns the name of the level in the interface, such as "QUORUM".
func (l Level) String() string {
	names := []string{"DEFAULT", "ONE", "QUORUM", "ALL", "LINEARIZABLE", "BOUNDED", "SESSION"}
	if l >= 0 && int(l) < len(names) {
		return names[l]
	}
	return fmt.Sprintf("LEVEL_%d", int32(l))
}
