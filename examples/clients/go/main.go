// Command plaque-client asks plaque what channels uploaded last: one of them, all of them at once, and then as it comes.
package main

//go:generate buf generate

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"plaque-client/plaquev1"
)

// A call without a deadline waits for as long as the server lets it.
const deadline = 10 * time.Second

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

func watch(client plaquev1.LatestVideoClient, channels []string, count int, howLong time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), howLong)
	defer cancel()
	events, err := client.WatchLatestVideo(ctx, &plaquev1.WatchLatestVideoRequest{ChannelIds: channels})
	if err != nil {
		return err
	}
	for range count {
		event, err := events.Recv()
		// Its deadline is one of the two ways in which this watch ends.
		if status.Code(err) == codes.DeadlineExceeded {
			return nil
		}
		if err != nil {
			return err
		}
		switch told := event.Event.(type) {
		case *plaquev1.WatchLatestVideoResponse_Video:
			when := "new"
			if event.Initial {
				when = "initial"
			}
			fmt.Println("watch:", told.Video.ChannelId, told.Video.VideoId, when)
		case *plaquev1.WatchLatestVideoResponse_Problem:
			fmt.Println("watch:", told.Problem.ChannelId, outcome(told.Problem))
		}
	}
	return nil
}

// explain prints an error: the reason is for programs to switch on, the message is for people.
func explain(err error) {
	failed, reason, retry := status.Convert(err), "-", ""
	for _, detail := range failed.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			reason = detail.Reason
		case *errdetails.RetryInfo:
			retry = fmt.Sprintf("retry: in %.1f s\n", detail.RetryDelay.AsDuration().Seconds())
		}
	}
	fmt.Printf("error: %v %s: %s\n%s", code.Code(failed.Code()), reason, failed.Message(), retry)
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
	connection, err := grpc.NewClient(*server, grpc.WithTransportCredentials(insecure.NewCredentials()))
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
