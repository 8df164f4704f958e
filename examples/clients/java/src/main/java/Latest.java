import static java.util.concurrent.TimeUnit.MILLISECONDS;
import static java.util.concurrent.TimeUnit.NANOSECONDS;
import static java.util.concurrent.TimeUnit.SECONDS;

import com.google.gson.Gson;
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
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.atomic.AtomicReference;
import plaque.v1.BatchGetLatestVideosRequest;
import plaque.v1.GetLatestVideoRequest;
import plaque.v1.LatestVideoGrpc;
import plaque.v1.LatestVideoGrpc.LatestVideoBlockingStub;
import plaque.v1.LookupResult;
import plaque.v1.WatchLatestVideoRequest;
import plaque.v1.WatchLatestVideoResponse;
import plaque.v1.WatchLatestVideoResponse.EventCase;

/** Gets the newest upload of a channel, then of several in a batch, and then watches them. */
public final class Latest {
    /**
     * In seconds, for a call and its retries. The service config says which errors are retried, after which backoff (or the
     * pause that the server asks for), and that calls wait for a server that restarts.
     */
    private static final int DEADLINE = 10;

    /** In milliseconds, the pause before a watch is resumed. Doubles until an event arrives. */
    private static final long MIN_BACKOFF = 1_000, MAX_BACKOFF = 15_000;

    /** A watch is resumed after these. Proxies answer INTERNAL when they lose the server. */
    private static final Set<Code> TRANSIENT = Set.of(Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.INTERNAL);

    private static final Metadata.Key<String> CACHE_STATUS = Metadata.Key.of("cache-status", Metadata.ASCII_STRING_MARSHALLER);

    static void get(LatestVideoBlockingStub client, String channel) {
        var headers = new AtomicReference<Metadata>();
        var capture = MetadataUtils.newCaptureMetadataInterceptor(headers, new AtomicReference<>());
        var request = GetLatestVideoRequest.newBuilder().setChannelId(channel).build();
        var video = client.withInterceptors(capture).withDeadlineAfter(DEADLINE, SECONDS).getLatestVideo(request).getVideo();
        System.out.printf("latest: %s %s %s%n", video.getVideoId(), video.getKind(), video.getTitle());
        System.out.printf("cache-status: %s%n", headers.get().get(CACHE_STATUS));
    }

    static void batch(LatestVideoBlockingStub client, List<String> channels) {
        var request = BatchGetLatestVideosRequest.newBuilder().addAllChannelIds(channels).build();
        var answer = client.withDeadlineAfter(DEADLINE, SECONDS).batchGetLatestVideos(request);
        // The call succeeds even if some of its channels fail.
        for (var result : answer.getResultsList()) {
            System.out.printf("batch: %s %s%n", result.getChannelId(), outcome(result));
        }
    }

    static String outcome(LookupResult result) {
        return result.hasFound() ? result.getFound().getVideo().getVideoId() : result.getFailure().getReason();
    }

    /** Prints {@code count} events, or those of {@code seconds}. Resumes the stream when it breaks. */
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
                    // Ignores kinds of events that only newer servers have.
                    if (event.getEventCase() == EventCase.EVENT_NOT_SET) {
                        continue;
                    }
                    System.out.printf("watch: %s %s%n", channelOf(event), describe(event));
                    if (--count <= 0) {
                        return;
                    }
                    // Stored only after the event was handled; otherwise it is sent again.
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
            // With jitter, so that the clients of a stopped server do not all reconnect at once.
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

    /** Prints an error. Programs switch on the reason; the message is for humans. */
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

    /** The delay that the server asks for, in milliseconds; 0 if none. */
    static long retryDelay(StatusRuntimeException error) throws InvalidProtocolBufferException {
        for (var detail : StatusProto.fromThrowable(error).getDetailsList()) {
            if (detail.is(RetryInfo.class)) {
                var delay = detail.unpack(RetryInfo.class).getRetryDelay();
                return SECONDS.toMillis(delay.getSeconds()) + NANOSECONDS.toMillis(delay.getNanos());
            }
        }
        return 0;
    }

    /** Of retries, which grpc-java makes unless told not to. Numbers are doubles, as it wants them. */
    @SuppressWarnings("unchecked")
    static Map<String, ?> serviceConfig(Path file) throws Exception {
        return new Gson().fromJson(Files.readString(file), Map.class);
    }

    public static void main(String[] args) throws Exception {
        var flags = new HashMap<>(Map.of("--server", "127.0.0.1:3779", "--events", "10", "--seconds", "60",
            "--service-config", "../../../deploy/service-config.json"));
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
            // Pings the connection, so that a watch detects that the server's machine is gone.
            .keepAliveTime(60, SECONDS)
            .defaultServiceConfig(serviceConfig(Path.of(flags.get("--service-config"))))
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
