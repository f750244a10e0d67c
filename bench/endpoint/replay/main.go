// Command replay is what the gate is measured with and against: a server that replays the
// streams of vLLM, a proxy that copies bytes, and a caller that measures each event.
//
//	replay serve SOCKET EVENTS_PER_SECOND
//	replay copy ADDRESS SOCKET
//	replay call NETWORK ADDRESS STREAMS SECONDS EVENTS_PER_SECOND
//
// Each event contains the time at which it was sent, in nanoseconds of the machine's clock.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

// An event has the size of those of vLLM's chat streams.
const event = `data: {"id":"chatcmpl-0123456789abcdef0123456789abcdef","object":"chat.completion.chunk",` +
	`"created":1700000000,"model":"%s","choices":[{"index":0,"delta":{"content":"%d"},` +
	`"logprobs":null,"finish_reason":null,"token_ids":null}]}` + "\n\n"

func main() {
	arguments := os.Args[2:]
	var err error
	switch os.Args[1] {
	case "serve":
		err = serve(arguments[0], number(arguments[1]))
	case "copy":
		err = copyBytes(arguments[0], arguments[1])
	case "call":
		err = call(arguments[0], arguments[1], number(arguments[2]), number(arguments[3]), number(arguments[4]))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func number(text string) int {
	value, err := strconv.Atoi(text)
	if err != nil {
		panic(err)
	}
	return value
}

// serve replays a stream for each request, until max_tokens events are sent.
func serve(socket string, rate int) error {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	return http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			Model     string `json:"model"`
			MaxTokens int    `json:"max_tokens"`
		}
		if json.NewDecoder(r.Body).Decode(&body) != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		ticks := time.NewTicker(time.Second / time.Duration(rate))
		defer ticks.Stop()
		for sent := 0; sent < body.MaxTokens; sent++ {
			select {
			case <-ticks.C:
			case <-r.Context().Done():
				return
			}
			fmt.Fprintf(w, event, body.Model, time.Now().UnixNano())
			w.(http.Flusher).Flush()
		}
		fmt.Fprint(w, "data: [DONE]\n\n")
	}))
}

func copyBytes(address, socket string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	for {
		caller, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer caller.Close()
			server, err := net.Dial("unix", socket)
			if err != nil {
				return
			}
			defer server.Close()
			go io.Copy(server, caller)
			io.Copy(caller, server)
		}()
	}
}

// call reads some streams at once, and prints the number of events and their latencies.
func call(network, address string, streams, seconds, rate int) error {
	client := http.Client{Transport: &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return net.Dial(network, address)
		},
		MaxConnsPerHost: 0,
	}}
	latencies := make([][]int64, streams)
	failures := make(chan error, streams)
	var group sync.WaitGroup
	for stream := range streams {
		group.Add(1)
		go func() {
			defer group.Done()
			// Streams that begin together would send together.
			time.Sleep(time.Duration(stream) * time.Second / time.Duration(rate*streams))
			found, err := read(&client, seconds*rate)
			latencies[stream] = found
			if err != nil {
				failures <- err
			}
		}()
	}
	group.Wait()
	close(failures)
	for err := range failures {
		return err
	}
	var all []int64
	for _, found := range latencies {
		all = append(all, found...)
	}
	sort.Slice(all, func(a, b int) bool { return all[a] < all[b] })
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"events": len(all),
		"p50":    float64(all[len(all)/2]) / 1e6,
		"p99":    float64(all[len(all)*99/100]) / 1e6,
	})
}

func read(client *http.Client, count int) ([]int64, error) {
	request := fmt.Sprintf(`{"model":"bench","stream":true,"max_tokens":%d,"messages":[{"role":"user","content":"x"}]}`, count)
	response, err := client.Post("http://gate/v1/chat/completions", "application/json", strings.NewReader(request))
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("HTTP %d", response.StatusCode)
	}
	var latencies []int64
	prefix, lines := []byte(`"content":"`), bufio.NewScanner(response.Body)
	for lines.Scan() {
		_, rest, found := bytes.Cut(lines.Bytes(), prefix)
		if !found {
			continue
		}
		digits, _, _ := bytes.Cut(rest, []byte(`"`))
		sent, err := strconv.ParseInt(string(digits), 10, 64)
		if err != nil {
			return nil, err
		}
		latencies = append(latencies, time.Now().UnixNano()-sent)
	}
	if len(latencies) != count {
		return nil, fmt.Errorf("%d of %d events arrived", len(latencies), count)
	}
	return latencies, lines.Err()
}
