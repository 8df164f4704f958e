// Command plaque-client gets the newest upload of a channel, then of several in a batch, and then watches them.
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
	_ "google.golang.org/grpc/health" // does what healthCheckConfig says
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	plaquev1 "plaque-client/plaque/v1"
)

// Of a call and its retries. The service config says which errors are retried, after which backoff (or the pause that the
// server asks for), and that calls wait for a server that restarts.
const deadline = 10 * time.Second

// The pause before a watch is resumed. Doubles until an event arrives.
const minBackoff, maxBackoff = time.Second, 15 * time.Second

// Pings the connection, so that a watch detects that the server's machine is gone.
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
	// The call succeeds even if some of its channels fail.
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

// watch prints count events, or those of howLong. Resumes the stream when it breaks.
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
			// Ignores kinds of events that only newer servers have.
			channel, text := describe(event)
			if channel == "" {
				continue
			}
			fmt.Println("watch:", channel, text)
			if count--; count <= 0 {
				return nil
			}
			// Stored only after the event was handled; otherwise it is sent again.
			if len(event.ResumeToken) > 0 {
				tokens[channel] = event.ResumeToken
			}
		}
		delay := retryDelay(err)
		if delay == 0 && !transient(err) {
			return err
		}
		// With jitter, so that the clients of a stopped server do not all reconnect at once.
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

// describe returns the channel of an event and a description.
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

// transient reports whether a watch is resumed after err.
func transient(err error) bool {
	switch status.Code(err) {
	// Proxies answer Internal when they lose the server.
	case codes.Unavailable, codes.DeadlineExceeded, codes.Internal:
		return true
	}
	return err == io.EOF
}

// retryDelay returns the delay that the server asks for; 0 if none.
func retryDelay(err error) time.Duration {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			return info.RetryDelay.AsDuration()
		}
	}
	return 0
}

// explain prints an error. Programs switch on the reason; the message is for humans.
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
	events := flag.Int("events", 10, "stop the watch after this many events")
	seconds := flag.Int("seconds", 60, "or after this many seconds")
	serviceConfig := flag.String("service-config", "../../../deploy/service-config.json", "of retries")
	flag.Parse()
	channels := flag.Args()
	if len(channels) == 0 {
		channels = []string{"UCsXVk37bltHxD1rDPwtNM8Q"}
	}
	config, err := os.ReadFile(*serviceConfig)
	if err != nil {
		return err
	}
	connection, err := grpc.NewClient(*server, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithKeepaliveParams(pings), grpc.WithDefaultServiceConfig(string(config)))
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
