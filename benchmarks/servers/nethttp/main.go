// What a user of Go's net/http writes: handlers, and Shutdown at SIGTERM. It answers what the app in
// http.py answers, but for WebSockets. Usage: main http | https CERTIFICATE
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const work = 100 * time.Millisecond

var (
	ten      = []byte(strings.Repeat(".", 10_000))
	half     = []byte(strings.Repeat(".", 5000)) // of a slow answer
	megabyte = make([]byte, 1_000_000)
	mu       sync.Mutex
	begun    = map[string]int{}
)

func answer(w http.ResponseWriter, length int, parts ...[]byte) {
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Content-Length", strconv.Itoa(length))
	for _, part := range parts {
		if _, err := w.Write(part); err != nil {
			return
		}
	}
}

func answerSlowly(w http.ResponseWriter) {
	time.Sleep(work / 2)
	answer(w, 2*len(half), half)
	w.(http.Flusher).Flush()
	time.Sleep(work / 2)
	w.Write(half)
}

func handle(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(r.URL.Path, "/")
	switch {
	case r.URL.Path == "/":
		answer(w, 2, []byte("ok"))
	case r.URL.Path == "/10k":
		answer(w, len(ten), ten)
	case r.URL.Path == "/upload":
		size, _ := io.Copy(io.Discard, r.Body)
		said := []byte(strconv.FormatInt(size, 10))
		answer(w, len(said), said)
	case parts[1] == "download":
		count, _ := strconv.Atoi(parts[2])
		all := make([][]byte, count)
		for i := range all {
			all[i] = megabyte
		}
		answer(w, count*len(megabyte), all...)
	default:
		number, _ := strconv.Atoi(parts[3])
		mu.Lock()
		begun[parts[2]] = number
		mu.Unlock()
		if parts[1] == "slow" {
			answerSlowly(w)
		} else {
			answer(w, 2, []byte("ok"))
		}
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fail(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(handle)}
	ended := make(chan error, 1)
	go func() {
		if os.Args[1] == "https" {
			ended <- server.ServeTLS(listener, os.Args[2], os.Args[2])
		} else {
			ended <- server.Serve(listener)
		}
	}()
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	select {
	case err := <-ended:
		fail(err)
	case <-terminated:
	}
	if err := server.Shutdown(context.Background()); err != nil {
		fail(err)
	}
	json.NewEncoder(os.Stdout).Encode(begun)
}
