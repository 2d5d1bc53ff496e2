#include "core/base/text.h"
#include "core/model/model.h"
#include "core/model/safetensors.h"
#include "core/tokenizer/chat_template.h"
#include "core/tokenizer/tokenizer.h"
#include "model_files.h"

#include <unistd.h>
#include <QElapsedTimer>
#include <QTemporaryDir>
#include <QTest>
#include <atomic>
#include <cmath>
#include <ctime>
#include <thread>

using namespace spartan;
using namespace spartan::test;

namespace {

template <class T>
std::vector<float> row(const PackedMatrix<T>& m, int64_t n) {
    std::vector<float> out(size_t(m.cols()), 0.f);
    m.get_row(n, out.data());
    return out;
}

// A model of one big layer, about 50 MB in fp32.
ModelConfig large_config() {
    ModelConfig c = tiny_config();
    c.hidden_size = 1024, c.intermediate_size = 3072, c.num_layers = 1, c.vocab_size = 1000;
    c.num_heads = 16, c.num_kv_heads = 16, c.head_dim = 64;
    return c;
}
TinyHf large_hf() {
    TinyHf hf = tiny_hf(large_config());
    hf.config["hidden_size"] = 1024, hf.config["intermediate_size"] = 3072, hf.config["num_hidden_layers"] = 1;
    hf.config["vocab_size"] = 1000, hf.config["num_attention_heads"] = 16, hf.config["num_key_value_heads"] = 16;
    hf.config["head_dim"] = 64;
    return hf;
}

}  // namespace

class LoadTest : public QObject {
    Q_OBJECT

    const QTemporaryDir dir_;
    std::string at(const char* name) const { return dir_.filePath(name).toStdString(); }

private slots:
    // Every value of a golden model arrives where it belongs.
    void values() {
        const std::string dir = std::string(TESTS_DIR) + "/golden/qwen2/model";
        const auto file = SafetensorsFile::open(dir + "/model.safetensors");
        VERIFY_OK(file);
        Progress p1, p2, p3;
        const auto f32 = load_model(*open_model(dir), DType::f32, 2, p1),
                   half = load_model(*open_model(dir), DType::bf16, 1, p2),
                   other_half = load_model(*open_model(dir), DType::f16, 1, p3);
        VERIFY_OK(f32);
        VERIFY_OK(half);
        VERIFY_OK(other_half);
        const auto& w = std::get<Weights<float>>((*f32)->weights);
        const auto& b = std::get<Weights<bf16>>((*half)->weights);
        const auto& h = std::get<Weights<f16>>((*other_half)->weights);
        const auto stored = [&](const std::string& name) { return *(*file)->read_finite(*(*file)->find(name)); };
        const auto same = [&]<class T>(const PackedMatrix<float>& m, const PackedMatrix<T>& rounded,
                                       const std::string& name) {
            const std::vector<float> v = stored(name);
            QCOMPARE(int64_t(v.size()), m.rows() * m.cols());
            for (int64_t n = 0; n < m.rows(); ++n) {
                const std::vector<float> x = row(m, n), y = row(rounded, n);
                for (int64_t k = 0; k < m.cols(); ++k) {
                    QCOMPARE(x[size_t(k)], v[size_t(n * m.cols() + k)]);
                    QCOMPARE(y[size_t(k)], to_float(from_float<T>(v[size_t(n * m.cols() + k)])));
                }
            }
        };
        same(w.embedding, b.embedding, "model.embed_tokens.weight");
        same(w.head, b.head, "lm_head.weight");
        same(w.embedding, h.embedding, "model.embed_tokens.weight");
        QCOMPARE(w.final_norm, stored("model.norm.weight"));
        for (size_t layer = 0; layer < w.layers.size(); ++layer) {
            const std::string prefix = "model.layers." + std::to_string(layer) + ".";
            QCOMPARE(w.layers[layer].attention_norm, stored(prefix + "input_layernorm.weight"));
            QCOMPARE(b.layers[layer].mlp_norm, stored(prefix + "post_attention_layernorm.weight"));
            for (int i = 0; i < kNumProjections; ++i) {
                const std::string name = prefix + (i < 4 ? "self_attn." : "mlp.") + name_of(Projection(i));
                same(w.layers[layer].projection[size_t(i)], b.layers[layer].projection[size_t(i)], name + ".weight");
                same(w.layers[layer].projection[size_t(i)], h.layers[layer].projection[size_t(i)], name + ".weight");
                QCOMPARE(w.layers[layer].bias[size_t(i)], i < 3 ? stored(name + ".bias") : std::vector<float>{});
            }
        }
        QCOMPARE(w.inv_freq, rope_inv_freq((*f32)->config()));
        QCOMPARE((*f32)->content_hash, (*half)->content_hash);
        QCOMPARE((*f32)->content_hash.size(), size_t(64));
    }

    void weight_bytes_are_what_is_held() {
        for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
            Progress progress;
            const auto model = load_model(*open_model("synthetic:tiny"), dtype, 1, progress);
            VERIFY_OK(model);
            const auto held = std::visit(
                [](const auto& w) {
                    int64_t bytes =
                        w.embedding.bytes() + w.head.bytes() + 4 * int64_t(w.final_norm.size() + w.inv_freq.size());
                    for (const auto& layer : w.layers) {
                        bytes += 4 * int64_t(layer.attention_norm.size() + layer.mlp_norm.size());
                        for (const auto& m : layer.projection) bytes += m.bytes();
                        for (const auto& v : layer.bias) bytes += 4 * int64_t(v.size());
                    }
                    return bytes;
                },
                (*model)->weights);
            QCOMPARE((*model)->weight_bytes, held);
        }
    }

    void content_hash_follows_the_bytes() {
        TinyHf hf = tiny_hf();
        const auto hash = [&](int threads) {
            hf.write(at("hash"));
            Progress progress;
            return (*load_model(*open_model(at("hash")), DType::f32, threads, progress))->content_hash;
        };
        const std::string first = hash(1);
        QCOMPARE(hash(3), first);
        std::swap(hf.tensors[3], hf.tensors[5]);  // another order in the file
        QCOMPARE(hash(2), first);
        hf.config["rope_theta"] = 20000.0;
        QVERIFY(hash(1) != first);
        hf.config["rope_theta"] = 10000.0;
        hf.tensor("model.norm.weight").data[0] ^= 1;
        QVERIFY(hash(1) != first);
    }

    void refuses_what_is_not_finite() {  // D19
        const std::pair<float, const char*> cases[] = {{NAN, "NaN"}, {INFINITY, "infinity"}, {-INFINITY, "-infinity"}};
        for (const auto& [bad, says] : cases) {
            TinyHf hf = tiny_hf();
            auto& data = hf.tensor("model.layers.1.mlp.down_proj.weight").data;
            std::memcpy(data.data() + 4 * (2 * 12 + 7), &bad, 4);
            hf.write(at("nan"));
            Progress progress;
            const auto model = load_model(*open_model(at("nan")), DType::f32, 2, progress);
            QVERIFY(!model);
            VERIFY_CONTAINS(model.error().message(),
                            std::string("model.layers.1.mlp.down_proj.weight[2, 7]: found ") + says);
        }
        TinyHf hf = tiny_hf();
        const float large = 3.4e38f;  // fits fp32, rounds to infinity in bf16
        std::memcpy(hf.tensor("lm_head.weight").data.data(), &large, 4);
        hf.write(at("large"));
        Progress p1, p2;
        VERIFY_OK(load_model(*open_model(at("large")), DType::f32, 1, p1));
        VERIFY_CONTAINS(load_model(*open_model(at("large")), DType::bf16, 1, p2).error().message(),
                        "lm_head.weight[0, 0]: found 3.4e+38");
        for (const float v : {65519.f, 65520.f}) {  // from here on f16 has infinity
            std::memcpy(hf.tensor("lm_head.weight").data.data(), &v, 4);
            hf.write(at("large"));
            Progress p3;
            const auto model = load_model(*open_model(at("large")), DType::f16, 1, p3);
            QCOMPARE(model.has_value(), v < 65520);
            if (!model)
                VERIFY_CONTAINS(model.error().message(),
                                "lm_head.weight[0, 0]: found 65520, expected a finite value that fits f16");
        }
    }

    void refuses_f16_on_a_cpu_and_too_little_memory() {
        Progress progress;
        QCOMPARE(*choose_dtype("f16", true), DType::f16);
        VERIFY_CONTAINS(choose_dtype("f16").error().message(), "dtype: found f16, expected f32, bf16 or auto on a CPU");
        QCOMPARE(*choose_dtype("f32"), DType::f32);
        QCOMPARE(*choose_dtype("bf16"), DType::bf16);
        VERIFY_OK(choose_dtype("auto"));
        QVERIFY(!choose_dtype("f16") && !choose_dtype("F32") && !choose_dtype(""));
        auto opened = *open_model("synthetic:llama-2-13b");
        opened.config.num_layers = 4000;
        opened.tensors.clear();
        VERIFY_CONTAINS(load_model(opened, DType::f32, 1, progress).error().message(), "memory: found");
    }

    void progress_is_in_stored_bytes() {
        large_hf().write(at("large-model"));
        const auto opened = open_model(at("large-model"));
        VERIFY_OK(opened);
        Progress progress;
        std::atomic<bool> done{false};
        std::vector<int64_t> seen;
        std::jthread watcher([&] {
            while (!done) {
                if (seen.empty() || seen.back() != progress.done) seen.push_back(progress.done);
                std::this_thread::yield();
            }
        });
        const auto model = load_model(*opened, DType::bf16, 2, progress);
        done = true;
        watcher.join();
        VERIFY_OK(model);
        int64_t stored = 0;
        for (const TensorSource& t : opened->tensors) stored += t.bytes;
        QCOMPARE(progress.total.load(), stored);
        QCOMPARE(progress.done.load(), stored);
        QVERIFY(std::is_sorted(seen.begin(), seen.end()) && seen.size() > 3);
        QVERIFY((*model)->info.files.empty() && !(*model)->info.tensors[0].read_rows);
    }

    // Within 200 ms, counted in processor time because the machine may be busy with other tests.
    void cancels_quickly() {
        for (const int after_ms : {0, 20, 100}) {
            Progress progress;
            std::atomic<std::clock_t> cancelled_at{0};
            std::jthread canceller([&] {
                std::this_thread::sleep_for(std::chrono::milliseconds(after_ms));
                cancelled_at = std::clock();
                progress.cancel = true;
            });
            const auto model = load_model(*open_model("synthetic:smollm2-135m"), DType::f32, 2, progress);
            const double seconds = double(std::clock() - cancelled_at) / CLOCKS_PER_SEC;
            if (model) continue;  // a fast machine was done before
            QVERIFY(model.error().cancelled);
            QVERIFY2(seconds < 0.2, std::to_string(seconds).c_str());
        }
    }

    void file_that_shrinks_or_changes_while_it_is_read() {  // K72, K73
        large_hf().write(at("shrinks"));
        const std::string file = at("shrinks") + "/model.safetensors";
        auto opened = *open_model(at("shrinks"));
        // The first read of the embedding pulls the rug.
        auto read = opened.tensors[0].read_stored;
        opened.tensors[0].read_stored = [=](int64_t first, int64_t count, std::byte* out) {
            if (::truncate(file.c_str(), 100'000) != 0) return Result<void>(make_error("truncate"));
            return read(first, count, out);
        };
        Progress p1;
        const auto shrunk = load_model(opened, DType::f32, 2, p1);
        QVERIFY(!shrunk);
        VERIFY_CONTAINS(shrunk.error().message(), file + ": ");
        large_hf().write(at("changes"));
        const std::string other = at("changes") + "/model.safetensors";
        opened = *open_model(at("changes"));
        VERIFY_OK(write_file_atomically(other, "x"));  // replaces it: the open one stays readable
        Progress p2;
        VERIFY_CONTAINS(load_model(opened, DType::f32, 2, p2).error().message(),
                        other + ": found the file was changed while it was read");
    }

    void gguf_that_shrinks_while_it_is_read() {  // K72, K73
        const std::string file = at("shrinks.gguf");
        put(file, tiny_gguf().bytes());
        const auto opened = open_model(file);
        VERIFY_OK(opened);
        QVERIFY(::truncate(file.c_str(), 2000) == 0);
        Progress progress;
        const auto model = load_model(*opened, DType::f32, 1, progress);
        QVERIFY(!model);
        VERIFY_CONTAINS(model.error().message(), file + ": ");
    }

    void synthetic_weights() {
        const auto load = [](const char* path, int threads, uint64_t seed) {
            Progress progress;
            return *load_model(*open_model(path, seed), DType::f32, threads, progress);
        };
        const auto a = load("synthetic:tiny", 1, 42), b = load("synthetic:tiny", 3, 42),
                   c = load("synthetic:tiny", 1, 43);
        const auto& wa = std::get<Weights<float>>(a->weights);
        const auto& wb = std::get<Weights<float>>(b->weights);
        const auto& wc = std::get<Weights<float>>(c->weights);
        for (int64_t n = 0; n < wa.embedding.rows(); ++n) QCOMPARE(row(wa.embedding, n), row(wb.embedding, n));
        QVERIFY(row(wa.embedding, 0) != row(wc.embedding, 0));
        QVERIFY(row(wa.layers[0].projection[0], 0) != row(wa.layers[1].projection[0], 0));
        QCOMPARE(a->content_hash, b->content_hash);
        QVERIFY(a->content_hash != c->content_hash);
        QVERIFY(a->config().vocab_size >= 257 && a->config().eos == std::vector<Token>{256});
        double sum = 0, squares = 0;
        const auto& up = wa.layers[1].projection[size_t(Projection::up)];
        for (int64_t n = 0; n < up.rows(); ++n)
            for (const float v : row(up, n)) sum += double(v), squares += double(v) * double(v);
        const double count = double(up.rows() * up.cols()), deviation = std::sqrt(squares / count);
        QVERIFY(std::abs(deviation * std::sqrt(128.0) - 1) < 0.02);
        QVERIFY(std::abs(sum / count) < 0.01 * deviation);
    }
};

QTEST_GUILESS_MAIN(LoadTest)
#include "load_test.moc"
