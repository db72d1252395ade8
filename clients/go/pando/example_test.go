package pando_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"pando.dev/go/pando"
)

var (
	ctx    = context.Background()
	client *pando.Client
)

func ExampleNew() {
	client, err := pando.New(pando.Config{
		Addresses: []string{"router-1:7450", "router-2:7450"},
		Timeout:   5 * time.Second, // of calls whose context has no deadline
	})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
}

func ExampleClient_Get() {
	record, err := client.Get(ctx, "fruit/apple")
	switch {
	case err != nil:
		log.Fatal(err)
	case !record.Found:
		fmt.Println("there is no such record")
	default:
		fmt.Printf("%s, version %d\n", record.Value, record.Version)
	}
}

// Change a record only if nobody else has changed it since it was read.
func ExampleClient_Put() {
	record, err := client.Get(ctx, "fruit/apple")
	if err != nil {
		log.Fatal(err)
	}
	result, err := client.Put(ctx, "fruit/apple", []byte("green"), pando.IfVersion(record.Version))
	if err != nil {
		log.Fatal(err)
	}
	if !result.Applied {
		fmt.Printf("somebody has changed it: %+v\n", result.Current)
	}
}

// Each use extends a session by an hour.
func ExampleClient_Touch() {
	if _, err := client.Put(ctx, "session/1", []byte("..."), pando.TTL(time.Hour)); err != nil {
		log.Fatal(err)
	}
	if _, err := client.Touch(ctx, "session/1", pando.TTL(time.Hour)); err != nil {
		log.Fatal(err)
	}
}

// Move money, unless somebody has changed one of the accounts meanwhile. Keys with one {tag} share a partition.
func ExampleClient_WriteBatch() {
	records, err := client.MultiGet(ctx, []string{"{bank}/anna", "{bank}/ben"})
	if err != nil {
		log.Fatal(err)
	}
	batch := new(pando.Batch).AllOrNothing().
		Put("{bank}/anna", []byte("70"), pando.IfVersion(records[0].Version)).
		Put("{bank}/ben", []byte("30"), pando.IfVersion(records[1].Version))
	result, err := client.WriteBatch(ctx, batch)
	if err == nil {
		err = result.Err()
	}
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("moved:", result.Results[0].Applied)
}

func ExampleClient_Scan() {
	scanner := client.Scan(ctx, pando.Prefix("fruit/"), pando.KeysOnly())
	for scanner.Next() {
		fmt.Println(scanner.Row().Key)
	}
	if err := scanner.Err(); err != nil {
		log.Fatal(err)
	}
}

// Give the rest of a scan to another process.
func ExampleFromCursor() {
	page, err := client.ScanPage(ctx, pando.Prefix("fruit/"), pando.PageRows(100))
	if err != nil {
		log.Fatal(err)
	}
	rest := client.Scan(ctx, pando.Prefix("fruit/"), pando.FromCursor(page.Cursor))
	for rest.Next() {
		fmt.Println(rest.Row().Key)
	}
}

func ExampleClient_OpenSnapshot() {
	snapshot, err := client.OpenSnapshot(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer snapshot.Close() // it is renewed until then
	count, err := snapshot.Count(ctx, pando.Prefix("fruit/"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(count, "at version", snapshot.Version())
}

// Read everything once, and then follow the changes without a gap.
func ExampleClient_Watch() {
	snapshot, err := client.OpenSnapshot(ctx)
	if err != nil {
		log.Fatal(err)
	}
	scanner := snapshot.Scan(ctx, pando.Prefix("fruit/"))
	for scanner.Next() {
		fmt.Println(scanner.Row().Key)
	}
	snapshot.Close()
	watcher, err := client.Watch(ctx, "fruit/", pando.AfterVersion(snapshot.Version()))
	if err != nil {
		log.Fatal(err)
	}
	defer watcher.Close()
	for watcher.Next() {
		fmt.Println(watcher.Change().Key, "at", watcher.Change().Version)
	}
	if errors.Is(watcher.Err(), pando.ErrFeedGone) {
		fmt.Println("too far behind: begin again with a snapshot")
	}
}

// A session reads its own writes at any replica.
func ExampleClient_Session() {
	session := client.Session()
	if _, err := session.Put(ctx, "cart/1", []byte("3 apples")); err != nil {
		log.Fatal(err)
	}
	record, err := session.Get(ctx, "cart/1")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", record.Value)
}

func ExampleError() {
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	_, err := client.Put(short, "k", []byte("v"))
	var e *pando.Error
	if errors.As(err, &e) && e.Applied == pando.AppliedUnknown {
		fmt.Println("the write may have taken effect, or still do so:", e.Advice())
	}
}
