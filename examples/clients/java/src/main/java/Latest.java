import static java.util.concurrent.TimeUnit.SECONDS;

import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.MetadataUtils;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.atomic.AtomicReference;
import plaque.v1.LatestVideoGrpc;
import plaque.v1.LatestVideoGrpc.LatestVideoBlockingStub;
import plaque.v1.LatestVideoOuterClass.BatchGetLatestVideosRequest;
import plaque.v1.LatestVideoOuterClass.GetLatestVideoRequest;
import plaque.v1.LatestVideoOuterClass.LookupResult;
import plaque.v1.LatestVideoOuterClass.WatchLatestVideoRequest;

/** Asks plaque what channels uploaded last: one of them, all of them at once, and then as it comes. */
public final class Latest {
    /** In seconds. A call without a deadline waits for as long as the server lets it. */
    private static final int DEADLINE = 10;

    private static final Metadata.Key<String> CACHE_STATUS = Metadata.Key.of("cache-status", Metadata.ASCII_STRING_MARSHALLER);

    static void get(LatestVideoBlockingStub client, String channel) {
        var headers = new AtomicReference<Metadata>();
        var capture = MetadataUtils.newCaptureMetadataInterceptor(headers, new AtomicReference<>());
        var asked = GetLatestVideoRequest.newBuilder().setChannelId(channel).build();
        var video = client.withInterceptors(capture).withDeadlineAfter(DEADLINE, SECONDS).getLatestVideo(asked).getVideo();
        System.out.printf("latest: %s %s %s%n", video.getVideoId(), video.getKind(), video.getTitle());
        System.out.printf("cache-status: %s%n", headers.get().get(CACHE_STATUS));
    }

    static void batch(LatestVideoBlockingStub client, List<String> channels) {
        var asked = BatchGetLatestVideosRequest.newBuilder().addAllChannelIds(channels).build();
        var answer = client.withDeadlineAfter(DEADLINE, SECONDS).batchGetLatestVideos(asked);
        // The call succeeds although some of its channels fail.
        for (var result : answer.getResultsList()) {
            System.out.printf("batch: %s %s%n", result.getChannelId(), outcome(result));
        }
    }

    static String outcome(LookupResult result) {
        return result.hasFound() ? result.getFound().getVideo().getVideoId() : result.getFailure().getReason();
    }

    static void watch(LatestVideoBlockingStub client, List<String> channels, int count, long seconds) {
        var asked = WatchLatestVideoRequest.newBuilder().addAllChannelIds(channels).build();
        var events = client.withDeadlineAfter(seconds, SECONDS).watchLatestVideo(asked);
        try {
            for (; count > 0 && events.hasNext(); count--) {
                var event = events.next();
                if (event.hasVideo()) {
                    var when = event.getInitial() ? "initial" : "new";
                    System.out.printf("watch: %s %s %s%n", event.getVideo().getChannelId(), event.getVideo().getVideoId(), when);
                } else {
                    System.out.printf("watch: %s %s%n", event.getProblem().getChannelId(), outcome(event.getProblem()));
                }
            }
        } catch (StatusRuntimeException error) {
            // Its deadline is one of the two ways in which this watch ends.
            if (error.getStatus().getCode() != Status.Code.DEADLINE_EXCEEDED) {
                throw error;
            }
        }
    }

    /** Prints an error: the reason is for programs to switch on, the message is for people. */
    static void explain(StatusRuntimeException error) throws InvalidProtocolBufferException {
        var reason = "-";
        var retry = "";
        for (var detail : StatusProto.fromThrowable(error).getDetailsList()) {
            if (detail.is(ErrorInfo.class)) {
                reason = detail.unpack(ErrorInfo.class).getReason();
            } else if (detail.is(RetryInfo.class)) {
                var delay = detail.unpack(RetryInfo.class).getRetryDelay();
                retry = "retry: in %.1f s%n".formatted(delay.getSeconds() + delay.getNanos() / 1e9);
            }
        }
        var status = error.getStatus();
        System.out.printf("error: %s %s: %s%n%s", status.getCode(), reason, status.getDescription(), retry);
    }

    public static void main(String[] args) throws Exception {
        var flags = new HashMap<>(Map.of("--server", "127.0.0.1:3779", "--events", "10", "--seconds", "60"));
        var channels = new ArrayList<String>();
        for (var words = List.of(args).iterator(); words.hasNext(); ) {
            var word = words.next();
            if (flags.containsKey(word)) {
                flags.put(word, words.next());
            } else {
                channels.add(word);
            }
        }
        if (channels.isEmpty()) {
            channels.add("UCsXVk37bltHxD1rDPwtNM8Q");
        }
        var connection = Grpc.newChannelBuilder(flags.get("--server"), InsecureChannelCredentials.create()).build();
        var client = LatestVideoGrpc.newBlockingStub(connection);
        try {
            get(client, channels.get(0));
            batch(client, channels);
            watch(client, channels, Integer.parseInt(flags.get("--events")), Long.parseLong(flags.get("--seconds")));
        } catch (StatusRuntimeException error) {
            explain(error);
            System.exit(1);
        } finally {
            connection.shutdownNow();
        }
    }
}
