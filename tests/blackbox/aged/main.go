// Command aged makes many calls, and prints how they ended: `aged ADDRESS,… CALLS RATE SERVICE_CONFIG`.
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // does what healthCheckConfig says
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	plaquev1 "plaque-client/plaque/v1"
)

func main() {
	calls, _ := strconv.Atoi(os.Args[2])
	rate, _ := strconv.Atoi(os.Args[3])
	addresses := manual.NewBuilderWithScheme("static")
	var state resolver.State
	for _, address := range strings.Split(os.Args[1], ",") {
		state.Addresses = append(state.Addresses, resolver.Address{Addr: address})
	}
	addresses.InitialState(state)
	connection, err := grpc.NewClient("static:///plaque", grpc.WithResolvers(addresses), grpc.WithDefaultServiceConfig(os.Args[4]),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		panic(err)
	}
	client := plaquev1.NewLatestVideoClient(connection)
	var all sync.WaitGroup
	began := time.Now()
	for n := range calls {
		time.Sleep(time.Until(began.Add(time.Duration(n) * time.Second / time.Duration(rate))))
		all.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			_, err := client.GetLatestVideo(ctx, &plaquev1.GetLatestVideoRequest{ChannelId: fmt.Sprintf("UC%021dA", n)})
			fmt.Println(status.Code(err), status.Convert(err).Message())
		})
	}
	all.Wait()
}
