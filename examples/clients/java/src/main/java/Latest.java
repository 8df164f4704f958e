import static java.util.concurrent.TimeUnit.MILLISECONDS;
import static java.util.concurrent.TimeUnit.NANOSECONDS;
import static java.util.concurrent.TimeUnit.SECONDS;

import com.google.protobuf.ByteString;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Deadline;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.Metadata;
import io.grpc.Status.Code;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.MetadataUtils;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.atomic.AtomicReference;
import plaque.v1.LatestVideoGrpc;
import plaque.v1.LatestVideoGrpc.LatestVideoBlockingStub;
import plaque.v1.LatestVideoOuterClass.BatchGetLatestVideosRequest;
import plaque.v1.LatestVideoOuterClass.GetLatestVideoRequest;
import plaque.v1.LatestVideoOuterClass.LookupResult;
import plaque.v1.LatestVideoOuterClass.WatchLatestVideoRequest;
import plaque.v1.LatestVideoOuterClass.WatchLatestVideoResponse;
import plaque.v1.LatestVideoOuterClass.WatchLatestVideoResponse.EventCase;

/** Asks plaque what channels uploaded last: one of them, all of them at once, and then as it comes. */
public final class Latest {
    /** In seconds. A call without a deadline waits for as long as the server lets it. */
    private static final int DEADLINE = 10;

    /** In milliseconds, before a watch is resumed. It doubles until an event comes. */
    private static final long MIN_BACKOFF = 1_000, MAX_BACKOFF = 15_000;

    /** A watch goes on after these. INTERNAL is what a proxy answers when it loses the server. */
    private static final Set<Code> TRANSIENT = Set.of(Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.INTERNAL);

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

    /** Prints events until there were {@code count}, or for so long. When the stream breaks, it is resumed where it was. */
    static void watch(LatestVideoBlockingStub client, List<String> channels, int count, long seconds) throws Exception {
        var end = Deadline.after(seconds, SECONDS);
        var tokens = new HashMap<String, ByteString>();
        var backoff = MIN_BACKOFF;
        while (!end.isExpired()) {
            var request = WatchLatestVideoRequest.newBuilder().addAllChannelIds(channels).addAllResumeTokens(tokens.values());
            var delay = 0L;
            try {
                var events = client.withDeadline(end).watchLatestVideo(request.build());
                while (events.hasNext()) {
                    var event = events.next();
                    backoff = MIN_BACKOFF;
                    // A newer server may have kinds of events that are not known here.
                    if (event.getEventCase() == EventCase.EVENT_NOT_SET) {
                        continue;
                    }
                    System.out.printf("watch: %s %s%n", channelOf(event), describe(event));
                    if (--count <= 0) {
                        return;
                    }
                    // Only now: an event that was not handled to its end comes again.
                    if (!event.getResumeToken().isEmpty()) {
                        tokens.put(channelOf(event), event.getResumeToken());
                    }
                }
            } catch (StatusRuntimeException error) {
                delay = retryDelay(error);
                if (delay == 0 && !TRANSIENT.contains(error.getStatus().getCode())) {
                    throw error;
                }
            }
            // With jitter: the clients of a server that stopped must not all come back at once.
            var pause = Math.max(delay, backoff);
            pause += ThreadLocalRandom.current().nextLong(pause);
            backoff = Math.min(2 * backoff, MAX_BACKOFF);
            Thread.sleep(Math.max(0, Math.min(pause, end.timeRemaining(MILLISECONDS))));
        }
    }

    static String channelOf(WatchLatestVideoResponse event) {
        return switch (event.getEventCase()) {
            case VIDEO -> event.getVideo().getChannelId();
            case PROBLEM -> event.getProblem().getChannelId();
            case RECOVERED -> event.getRecovered().getChannelId();
            case MISSED -> event.getMissed().getChannelId();
            case EVENT_NOT_SET -> "";
        };
    }

    static String describe(WatchLatestVideoResponse event) {
        return switch (event.getEventCase()) {
            case VIDEO -> event.getVideo().getVideoId() + (event.getInitial() ? " initial" : " new");
            case PROBLEM -> outcome(event.getProblem());
            case RECOVERED -> "lookups work again";
            case MISSED -> "uploads may have been missed";
            case EVENT_NOT_SET -> "";
        };
    }

    /** Prints an error: the reason is for programs to switch on, the message is for people. */
    static void explain(StatusRuntimeException error) throws InvalidProtocolBufferException {
        var reason = "-";
        for (var detail : StatusProto.fromThrowable(error).getDetailsList()) {
            if (detail.is(ErrorInfo.class)) {
                reason = detail.unpack(ErrorInfo.class).getReason();
            }
        }
        System.out.printf("error: %s %s: %s%n", error.getStatus().getCode(), reason, error.getStatus().getDescription());
        var delay = retryDelay(error);
        if (delay > 0) {
            System.out.printf("retry: in %.1f s%n", delay / 1e3);
        }
    }

    /** How long the server asks to wait, in milliseconds; 0 if it does not. */
    static long retryDelay(StatusRuntimeException error) throws InvalidProtocolBufferException {
        for (var detail : StatusProto.fromThrowable(error).getDetailsList()) {
            if (detail.is(RetryInfo.class)) {
                var delay = detail.unpack(RetryInfo.class).getRetryDelay();
                return SECONDS.toMillis(delay.getSeconds()) + NANOSECONDS.toMillis(delay.getNanos());
            }
        }
        return 0;
    }

    public static void main(String[] args) throws Exception {
        var flags = new HashMap<>(Map.of("--server", "127.0.0.1:3779", "--events", "10", "--seconds", "60"));
        var channels = new ArrayList<String>();
        for (var rest = List.of(args).iterator(); rest.hasNext(); ) {
            var arg = rest.next();
            if (flags.containsKey(arg)) {
                flags.put(arg, rest.next());
            } else {
                channels.add(arg);
            }
        }
        if (channels.isEmpty()) {
            channels.add("UCsXVk37bltHxD1rDPwtNM8Q");
        }
        var connection = Grpc.newChannelBuilder(flags.get("--server"), InsecureChannelCredentials.create())
            // Without pings a watch would not notice that the machine at the other end is gone.
            .keepAliveTime(60, SECONDS)
            .build();
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
