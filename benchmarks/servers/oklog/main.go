// What a user of oklog/run writes: an accept loop and a signal handler in one group. The listener's interrupt closes
// the listener and every connection. Usage: main echo|work|reply
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/oklog/run"
)

type server struct {
	handle      func(net.Conn)
	mu          sync.Mutex
	closed      bool
	connections map[net.Conn]struct{}
	handlers    sync.WaitGroup
}

func (s *server) serve(listener net.Listener) error {
	defer s.handlers.Wait()
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			connection.Close()
			continue
		}
		s.connections[connection] = struct{}{}
		s.handlers.Add(1)
		s.mu.Unlock()
		go func() {
			defer s.handlers.Done()
			s.handle(connection)
			s.mu.Lock()
			delete(s.connections, connection)
			s.mu.Unlock()
			connection.Close()
		}()
	}
}

func (s *server) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for connection := range s.connections {
		connection.Close()
	}
}

func converse(work bool) func(net.Conn) {
	return func(connection net.Conn) {
		buffer := make([]byte, 4096)
		for {
			n, err := connection.Read(buffer)
			if err != nil {
				return
			}
			if _, err := connection.Write(buffer[:n]); err != nil {
				return
			}
			if work && string(buffer[:n]) == "work" {
				time.Sleep(100 * time.Millisecond)
				if _, err := connection.Write([]byte("done")); err != nil {
					return
				}
			}
		}
	}
}

func reply(connection net.Conn) {
	buffer := make([]byte, 4096)
	if n, err := connection.Read(buffer); err == nil {
		connection.Write(buffer[:n])
	}
}

func main() {
	handlers := map[string]func(net.Conn){"echo": converse(false), "work": converse(true), "reply": reply}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	s := &server{handle: handlers[os.Args[1]], connections: make(map[net.Conn]struct{})}
	var group run.Group
	group.Add(func() error { return s.serve(listener) }, func(error) {
		listener.Close()
		s.close()
	})
	group.Add(run.SignalHandler(context.Background(), syscall.SIGTERM))
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	var signal run.SignalError
	if err := group.Run(); !errors.As(err, &signal) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
