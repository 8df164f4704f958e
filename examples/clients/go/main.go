// Command plaque-client asks plaque what channels uploaded last: one of them, all of them at once, and then as it comes.
package main

//go:generate buf generate

import (
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"plaque-client/plaquev1"
)

// A call without a deadline waits for as long as the server lets it.
const deadline = 10 * time.Second

// Before a watch is resumed. It doubles until an event comes.
const minBackoff, maxBackoff = time.Second, 15 * time.Second

// The connection is pinged: otherwise a watch would not notice that the machine at its other end is gone.
var pings = keepalive.ClientParameters{Time: time.Minute, Timeout: 20 * time.Second}

func get(client plaquev1.LatestVideoClient, channel string) error {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	var headers metadata.MD
	answer, err := client.GetLatestVideo(ctx, &plaquev1.GetLatestVideoRequest{ChannelId: channel}, grpc.Header(&headers))
	if err != nil {
		return err
	}
	fmt.Println("latest:", answer.Video.VideoId, answer.Video.Kind, answer.Video.Title)
	fmt.Println("cache-status:", strings.Join(headers["cache-status"], ", "))
	return nil
}

func batch(client plaquev1.LatestVideoClient, channels []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	answer, err := client.BatchGetLatestVideos(ctx, &plaquev1.BatchGetLatestVideosRequest{ChannelIds: channels})
	if err != nil {
		return err
	}
	// The call succeeds although some of its channels fail.
	for _, result := range answer.Results {
		fmt.Println("batch:", result.ChannelId, outcome(result))
	}
	return nil
}

func outcome(result *plaquev1.LookupResult) string {
	if failure := result.GetFailure(); failure != nil {
		return failure.Reason
	}
	return result.GetFound().GetVideo().GetVideoId()
}

// watch prints events until there were count of them, or for so long. When the stream breaks, it is resumed where it was.
func watch(client plaquev1.LatestVideoClient, channels []string, count int, howLong time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), howLong)
	defer cancel()
	tokens, backoff := map[string][]byte{}, minBackoff
	for {
		events, err := client.WatchLatestVideo(ctx, &plaquev1.WatchLatestVideoRequest{
			ChannelIds: channels, ResumeTokens: slices.Collect(maps.Values(tokens)),
		})
		for err == nil {
			var event *plaquev1.WatchLatestVideoResponse
			if event, err = events.Recv(); err != nil {
				break
			}
			backoff = minBackoff
			// A newer server may have kinds of events that are not known here.
			channel, text := describe(event)
			if channel == "" {
				continue
			}
			fmt.Println("watch:", channel, text)
			if count--; count <= 0 {
				return nil
			}
			// Only now: an event that was not handled to its end comes again.
			if len(event.ResumeToken) > 0 {
				tokens[channel] = event.ResumeToken
			}
		}
		delay := retryDelay(err)
		if delay == 0 && !transient(err) {
			return err
		}
		// With jitter: the clients of a server that stopped must not all come back at once.
		pause := max(delay, backoff)
		pause += rand.N(pause)
		backoff = min(2*backoff, maxBackoff)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
	}
}

// describe returns which channel an event is about, and what happened.
func describe(event *plaquev1.WatchLatestVideoResponse) (channel, text string) {
	switch it := event.Event.(type) {
	case *plaquev1.WatchLatestVideoResponse_Video:
		when := "new"
		if event.Initial {
			when = "initial"
		}
		return it.Video.ChannelId, it.Video.VideoId + " " + when
	case *plaquev1.WatchLatestVideoResponse_Problem:
		return it.Problem.ChannelId, outcome(it.Problem)
	case *plaquev1.WatchLatestVideoResponse_Recovered:
		return it.Recovered.ChannelId, "lookups work again"
	case *plaquev1.WatchLatestVideoResponse_Missed:
		return it.Missed.ChannelId, "uploads may have been missed"
	}
	return "", ""
}

// transient tells whether a watch goes on after err.
func transient(err error) bool {
	switch status.Code(err) {
	// Internal is what a proxy answers when it loses the server.
	case codes.Unavailable, codes.DeadlineExceeded, codes.Internal:
		return true
	}
	return err == io.EOF
}

// retryDelay returns how long the server asks to wait; 0 if it does not.
func retryDelay(err error) time.Duration {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			return info.RetryDelay.AsDuration()
		}
	}
	return 0
}

// explain prints an error: the reason is for programs to switch on, the message is for people.
func explain(err error) {
	failed, reason := status.Convert(err), "-"
	for _, detail := range failed.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			reason = info.Reason
		}
	}
	fmt.Printf("error: %v %s: %s\n", code.Code(failed.Code()), reason, failed.Message())
	if delay := retryDelay(err); delay > 0 {
		fmt.Printf("retry: in %.1f s\n", delay.Seconds())
	}
}

func run() error {
	server := flag.String("server", "127.0.0.1:3779", "")
	events := flag.Int("events", 10, "watch until so many")
	seconds := flag.Int("seconds", 60, "or for so long")
	flag.Parse()
	channels := flag.Args()
	if len(channels) == 0 {
		channels = []string{"UCsXVk37bltHxD1rDPwtNM8Q"}
	}
	connection, err := grpc.NewClient(*server,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithKeepaliveParams(pings))
	if err != nil {
		return err
	}
	defer connection.Close()
	client := plaquev1.NewLatestVideoClient(connection)
	if err := get(client, channels[0]); err != nil {
		return err
	}
	if err := batch(client, channels); err != nil {
		return err
	}
	return watch(client, channels, *events, time.Duration(*seconds)*time.Second)
}

func main() {
	if err := run(); err != nil {
		explain(err)
		os.Exit(1)
	}
}
