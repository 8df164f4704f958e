import static java.util.concurrent.TimeUnit.SECONDS;

import com.google.gson.Gson;
import io.grpc.EquivalentAddressGroup;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.NameResolver;
import io.grpc.NameResolverProvider;
import io.grpc.NameResolverRegistry;
import io.grpc.Status;
import io.grpc.StatusOr;
import io.grpc.stub.StreamObserver;
import java.net.InetSocketAddress;
import java.net.URI;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.locks.LockSupport;
import plaque.v1.LatestVideoGrpc;
import plaque.v1.GetLatestVideoRequest;
import plaque.v1.GetLatestVideoResponse;

/** Makes many calls, and prints how they ended: {@code Aged ADDRESS,… CALLS RATE SERVICE_CONFIG}. */
public final class Aged {
    private record Ending(CountDownLatch left) implements StreamObserver<GetLatestVideoResponse> {
        @Override public void onNext(GetLatestVideoResponse answer) {}

        @Override public void onCompleted() {
            end("OK");
        }

        @Override public void onError(Throwable error) {
            var status = Status.fromThrowable(error);
            var cause = status.getCause() == null ? "" : ": " + status.getCause().getMessage();
            end("%s %s%s".formatted(status.getCode(), status.getDescription(), cause).replace('\n', ' '));
        }

        private void end(String how) {
            System.out.println(how);
            left.countDown();
        }
    }

    /** Resolves {@code static:///…} to these addresses: grpc-java has no {@code ipv4:}. */
    private static final class Addresses extends NameResolverProvider {
        private final List<EquivalentAddressGroup> addresses;

        Addresses(String list) {
            addresses = List.of(list.split(",")).stream().map(address -> {
                var parts = address.split(":");
                return new EquivalentAddressGroup(new InetSocketAddress(parts[0], Integer.parseInt(parts[1])));
            }).toList();
        }

        @Override protected boolean isAvailable() { return true; }

        @Override protected int priority() { return 5; }

        @Override public String getDefaultScheme() { return "static"; }

        @Override public NameResolver newNameResolver(URI target, NameResolver.Args args) {
            return new NameResolver() {
                @Override public String getServiceAuthority() { return "plaque"; }

                @Override public void start(Listener2 listener) {
                    listener.onResult(ResolutionResult.newBuilder().setAddressesOrError(StatusOr.fromValue(addresses)).build());
                }

                @Override public void shutdown() {}
            };
        }
    }

    @SuppressWarnings("unchecked")
    public static void main(String[] arguments) throws Exception {
        int calls = Integer.parseInt(arguments[1]), rate = Integer.parseInt(arguments[2]);
        NameResolverRegistry.getDefaultRegistry().register(new Addresses(arguments[0]));
        var channel = Grpc.newChannelBuilder("static:///plaque", InsecureChannelCredentials.create())
            .defaultServiceConfig(new Gson().fromJson(arguments[3], Map.class)).build();
        var client = LatestVideoGrpc.newStub(channel);
        var ending = new Ending(new CountDownLatch(calls));
        long began = System.nanoTime();
        for (int n = 0; n < calls; n++) {
            long due = began + n * 1_000_000_000L / rate;
            while (System.nanoTime() < due) {
                LockSupport.parkNanos(due - System.nanoTime());
            }
            var request = GetLatestVideoRequest.newBuilder().setChannelId("UC%021dA".formatted(n)).build();
            client.withDeadlineAfter(10, SECONDS).getLatestVideo(request, ending);
        }
        ending.left.await();
        channel.shutdownNow();
    }
}
