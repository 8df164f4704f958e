import static java.util.concurrent.TimeUnit.SECONDS;

import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.Status;
import io.grpc.stub.StreamObserver;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.locks.LockSupport;
import plaque.v1.LatestVideoGrpc;
import plaque.v1.GetLatestVideoRequest;
import plaque.v1.GetLatestVideoResponse;

/** Makes many calls over one connection, and prints how they ended: {@code Aged ADDRESS CALLS RATE}. */
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

    public static void main(String[] arguments) throws Exception {
        int calls = Integer.parseInt(arguments[1]), rate = Integer.parseInt(arguments[2]);
        var channel = Grpc.newChannelBuilder(arguments[0], InsecureChannelCredentials.create()).build();
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
