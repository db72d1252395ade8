// Command sample is a tour of the Go client.
//
//	go run ./cmd/sample [HOST:PORT,HOST:PORT]
//
// The addresses are those of routers or of a node; without any, they are the routers of ./dev up. It writes, and in the
// end removes, keys that begin with "go-sample/".
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"pando.dev/go/pando"
)

func main() {
	log.SetFlags(0)
	addresses := "127.0.0.1:7450,127.0.0.1:7460"
	if len(os.Args) > 1 {
		addresses = os.Args[1]
	}
	if err := tour(strings.Split(addresses, ",")); err != nil {
		log.Fatal(err)
	}
}

func tour(addresses []string) error {
	client, err := pando.New(pando.Config{Addresses: addresses, ClientName: "sample"})
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, part := range []func(context.Context, *pando.Client) error{server, records, batch, ranges, changes, failures} {
		if err := part(ctx, client); err != nil {
			return err
		}
	}
	removed, err := client.DeleteRange(ctx, pando.Prefix("go-sample/"))
	fmt.Println("removed:", removed, "records")
	return err
}

func server(ctx context.Context, client *pando.Client) error {
	info, err := client.ServerInfo(ctx)
	if err == nil {
		fmt.Println("connected to Pando", info.Version)
	}
	return err
}

// records writes and reads single records.
func records(ctx context.Context, client *pando.Client) error {
	// It returns when the write is on disk, at a quorum of the replicas.
	if _, err := client.Put(ctx, "go-sample/apple", []byte("red"), pando.TTL(time.Hour)); err != nil {
		return err
	}
	apple, err := client.Get(ctx, "go-sample/apple")
	if err != nil {
		return err
	}
	fmt.Printf("get: %s, expires in %v\n", apple.Value, time.Until(apple.ExpiresAt).Round(time.Minute))
	none, err := client.Get(ctx, "go-sample/pear")
	if err != nil {
		return err
	}
	fmt.Println("a key without a record: found =", none.Found)

	// Change it only if nobody else has changed it since it was read. That somebody has is no error.
	for _, color := range []string{"yellow", "blue"} {
		result, err := client.Put(ctx, "go-sample/apple", []byte(color), pando.IfVersion(apple.Version))
		if err != nil {
			return err
		}
		if result.Applied {
			fmt.Println("changed to", color)
		} else if result.Current != nil {
			fmt.Printf("not changed to %s: it is %s now\n", color, result.Current.Value)
		}
	}
	visits, err := client.Increment(ctx, "go-sample/visits", 1)
	if err != nil {
		return err
	}
	fmt.Println("counter:", visits.Number)
	return nil
}

// batch moves money between two records of one {tag}: both are changed, or none.
func batch(ctx context.Context, client *pando.Client) error {
	filling := new(pando.Batch).Put("go-sample/{bank}/anna", []byte("100")).Put("go-sample/{bank}/ben", []byte("0"))
	filled, err := client.WriteBatch(ctx, filling)
	if err == nil {
		err = filled.Err()
	}
	if err != nil {
		return err
	}
	transfer := new(pando.Batch).AllOrNothing().
		Put("go-sample/{bank}/anna", []byte("70"), pando.IfVersion(filled.Results[0].Version)).
		Put("go-sample/{bank}/ben", []byte("30"), pando.IfVersion(filled.Results[1].Version))
	for i := 0; i < 2; i++ {
		moved, err := client.WriteBatch(ctx, transfer)
		if err != nil {
			return err
		}
		fmt.Println("moved 30:", moved.Results[0].Applied, moved.Results[1].Applied)
	}
	return nil
}

// ranges reads several records, as they are at one moment.
func ranges(ctx context.Context, client *pando.Client) error {
	snapshot, err := client.OpenSnapshot(ctx)
	if err != nil {
		return err
	}
	defer snapshot.Close()
	if _, err = client.Put(ctx, "go-sample/later", nil); err != nil {
		return err
	}
	scanner := snapshot.Scan(ctx, pando.Prefix("go-sample/"))
	for scanner.Next() {
		fmt.Printf("scan: %s = %s\n", scanner.Row().Key, scanner.Row().Value)
	}
	if err = scanner.Err(); err != nil {
		return err
	}
	then, err := snapshot.Count(ctx, pando.Prefix("go-sample/"))
	if err != nil {
		return err
	}
	now, err := client.Count(ctx, pando.Prefix("go-sample/"))
	fmt.Println("count: in the snapshot", then, "- now", now)
	return err
}

// changes watches a prefix. The watch ends after one change.
func changes(ctx context.Context, client *pando.Client) error {
	watcher, err := client.Watch(ctx, "go-sample/", pando.LimitChanges(1))
	if err != nil {
		return err
	}
	defer watcher.Close()
	if _, err = client.Remove(ctx, "go-sample/later"); err != nil {
		return err
	}
	for watcher.Next() {
		fmt.Println("watch:", watcher.Change().Key, "removed =", watcher.Change().Removed)
	}
	return watcher.Err()
}

// failures shows what an error says.
func failures(ctx context.Context, client *pando.Client) error {
	_, err := client.Put(ctx, "", []byte("no key"))
	var e *pando.Error
	if !errors.Is(err, pando.ErrBadRequest) || !errors.As(err, &e) {
		return fmt.Errorf("a write without a key: %w", err)
	}
	fmt.Printf("error: %v - applied: %v - %s\n", e.Code, e.Applied, e.Advice())
	return nil
}
