#include "core/run/prompts.h"

#include "core/model/model.h"
#include "core/tokenizer/chat_template.h"
#include "core/tokenizer/tokenizer.h"

#include <algorithm>
#include <array>
#include <string>

namespace spartan {
namespace {

constexpr uint16_t kPromptPurpose = 128;
constexpr int64_t kLeastQuestion = 6;  // ids that must be left for text before a chat template is worth its room

constexpr std::array<const char*, 40> kTopics{"lighthouses",
                                              "bicycles",
                                              "honey bees",
                                              "the moon",
                                              "chess",
                                              "volcanoes",
                                              "bread baking",
                                              "public libraries",
                                              "rain clouds",
                                              "old maps",
                                              "trains",
                                              "whales",
                                              "coffee",
                                              "paper",
                                              "gardens in spring",
                                              "pocket watches",
                                              "rivers",
                                              "the violin",
                                              "penguins",
                                              "glass making",
                                              "mountain huts",
                                              "bridges",
                                              "tea",
                                              "kites",
                                              "the alphabet",
                                              "deserts",
                                              "markets",
                                              "owls",
                                              "wooden boats",
                                              "snow",
                                              "soap",
                                              "apple trees",
                                              "night trains",
                                              "the compass",
                                              "marbles",
                                              "windmills",
                                              "sleep",
                                              "potatoes",
                                              "street musicians",
                                              "lemons"};

// "%" stands for the topic.
constexpr std::array<const char*, 20> kQuestions{"Tell me about %.",
                                                 "Why do people like %?",
                                                 "Write two sentences about %.",
                                                 "What is special about %?",
                                                 "Explain % to a child.",
                                                 "Give me one surprising fact about %.",
                                                 "How would you describe % to a friend?",
                                                 "Write a short poem about %.",
                                                 "What should I know about %?",
                                                 "Name three things that go well with %.",
                                                 "How did % change everyday life?",
                                                 "Write the opening of a short story about %.",
                                                 "What makes % interesting?",
                                                 "List two good and two bad things about %.",
                                                 "What question would you ask an expert on %?",
                                                 "Please write a friendly note to a neighbour who loves %.",
                                                 "In one sentence, what can % teach us?",
                                                 "Describe a quiet afternoon spent with %.",
                                                 "What do beginners often get wrong about %?",
                                                 "Suggest a title for a small book about %."};

constexpr std::array<const char*, 16> kFacts{"I have been reading about % this week.",
                                             "My grandmother knew a lot about %.",
                                             "We talked about % at dinner yesterday.",
                                             "Our town has a small museum about %.",
                                             "A friend of mine writes a newsletter on %.",
                                             "There is a new exhibition about % near the station.",
                                             "Last summer I saw something about % that stayed with me.",
                                             "The children at school are learning about %.",
                                             "I am preparing a short talk on % for Thursday.",
                                             "Some people think that % are not worth much attention, but I disagree.",
                                             "My notes on % are a little out of order, so bear with me.",
                                             "On the radio they said that % matter more than most of us believe.",
                                             "I keep a small box with pictures of %.",
                                             "Nobody in my family agrees about %.",
                                             "It is raining, and I have time to think about %.",
                                             "A book about % has been lying on my desk for a month."};

// What fills the last few ids, and what asks when there is no room for a whole question.
constexpr std::array<const char*, 12> kShort{
    "Hello.",       "Please help.",          "Thank you.",    "Tell me more.",   "What is new?",
    "Hello there.", "Good morning to you.",  "Let us begin.", "I am listening.", "Why?",
    "Go on.",       "Keep it short, please."};

std::string about(const char* sentence, const char* topic) {
    std::string text(sentence);
    return text.replace(text.find('%'), 1, topic);
}

// Capital letters and agreement are not worth more machinery: every topic reads well in every sentence's middle.
std::vector<std::string> compose(auto sentences) {
    std::vector<std::string> all;
    for (const char* sentence : sentences)
        for (const char* topic : kTopics) all.push_back(about(sentence, topic));
    return all;
}

std::vector<Token> common_prefix(const std::vector<Token>& a, const std::vector<Token>& b) {
    const auto end = std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first;
    return {a.begin(), end};
}

std::vector<Token> common_suffix(const std::vector<Token>& a, const std::vector<Token>& b) {
    const auto end = std::mismatch(a.rbegin(), a.rend(), b.rbegin(), b.rend()).first;
    return {end.base(), a.end()};
}

}  // namespace

PromptMaker::PromptMaker(const Model& model) : vocab_size_(model.config().vocab_size), avoid_(model.config().eos) {
    if (model.config().bos >= 0) avoid_.push_back(model.config().bos);
    const auto& tokenizer = model.info.tokenizer;
    // A tokenizer that knows more ids than the model has rows belongs to another model: its ids could not be looked up.
    if (!tokenizer) return;
    tokenise_pool(*tokenizer);
    find_frames(model);
    has_text_ = true;
    for (const auto* pool : {&questions_, &questions_after_, &facts_, &facts_after_})
        for (const Ids& ids : *pool) {
            has_text_ &= !ids.empty();  // a vocabulary without these letters
            for (const Token id : ids) has_text_ &= id >= 0 && id < vocab_size_;
        }
    for (const Frame* frame : {&plain_, &chat_})
        for (const auto* part : {&frame->before, &frame->after})
            for (const Token id : *part) has_text_ &= id >= 0 && id < vocab_size_;
}

PromptMaker::~PromptMaker() = default;

void PromptMaker::tokenise_pool(const Tokenizer& tokenizer) {
    const auto encode = [&](const std::string& s) { return tokenizer.encode(s, false, SpecialTokens::as_text); };
    // Some tokenizers write the space before a word themselves.
    Ids joined = encode("Yes."), next = encode("No.");
    joined.insert(joined.end(), next.begin(), next.end());
    const std::string space = tokenizer.decode(joined, true) == "Yes. No." ? "" : " ";
    const auto add = [&](const std::vector<std::string>& sentences, std::vector<Ids>& first, std::vector<Ids>& after) {
        for (const std::string& s : sentences) {
            first.push_back(encode(s));
            after.push_back(encode(space + s));
        }
    };
    std::vector<std::string> questions = compose(kQuestions), facts = compose(kFacts);
    const std::vector<std::string> brief(kShort.begin(), kShort.end());
    facts.insert(facts.end(), brief.begin(), brief.end());
    add(questions, questions_, questions_after_);
    add(facts, facts_, facts_after_);
}

void PromptMaker::find_frames(const Model& model) {
    const Tokenizer& tokenizer = *model.info.tokenizer;
    const std::string a = "Apples are red.", b = "Who wrote this?";
    const auto plain = [&](const std::string& s) { return tokenizer.encode(s, true, SpecialTokens::as_text); };
    plain_.before = common_prefix(plain(a), plain(b));
    const auto& chat_template = model.info.chat_template;
    if (!chat_template || chat_template->is_plain()) return;
    const auto chat_a = chat_template->encode(tokenizer, {{"user", a}});
    const auto chat_b = chat_template->encode(tokenizer, {{"user", b}});
    if (!chat_a || !chat_b) return;  // a template that wants other conversations than a question
    chat_.before = common_prefix(*chat_a, *chat_b);
    chat_.after = common_suffix(*chat_a, *chat_b);
}

std::vector<Token> PromptMaker::random_ids(int64_t tokens, RandomStream& random) const {
    std::vector<Token> ids;
    ids.reserve(size_t(tokens));
    while (int64_t(ids.size()) < tokens) {
        const auto id = Token(random.below(uint64_t(vocab_size_)));
        const bool avoided = std::find(avoid_.begin(), avoid_.end(), id) != avoid_.end();
        if (!avoided || int64_t(avoid_.size()) >= vocab_size_) ids.push_back(id);
    }
    return ids;
}

// Sentences about something, then a question: the question is chosen first, to fit; what precedes it begins in the
// middle of a sentence when no whole one fits the rest.
void PromptMaker::fill(std::vector<Token>& out, int64_t tokens, RandomStream& random) const {
    if (tokens <= 0) return;
    const size_t topic = size_t(random.below(kTopics.size()));
    const auto pick_question = [&] { return size_t(random.below(kQuestions.size())) * kTopics.size() + topic; };
    // Mostly the same topic; others too, so that long prompts do not repeat themselves.
    const auto pick_fact = [&] {
        const size_t fact = size_t(random.below(facts_.size()));
        const bool brief = fact >= kFacts.size() * kTopics.size();
        return brief || random.uniform() < 0.4 ? fact : fact - fact % kTopics.size() + topic;
    };
    size_t question = pick_question();
    for (int tries = 0; tries < 64 && int64_t(questions_[question].size()) > tokens; ++tries)
        question = pick_question();
    const Ids& alone = questions_[question];
    if (int64_t(alone.size()) >= tokens) {  // its beginning, when even that does not fit
        out.insert(out.end(), alone.begin(), alone.begin() + tokens);
        return;
    }
    int64_t rest = tokens - int64_t(questions_after_[question].size());
    if (rest <= 0) {
        out.insert(out.end(), alone.begin(), alone.end());
        out.insert(out.end(), size_t(tokens) - alone.size(), alone.back());
        return;
    }
    std::vector<const Ids*> before;  // last sentence first
    while (rest > 0) {
        size_t fact = pick_fact();
        // A sentence that ends the search exactly is preferred over one that leaves a remainder too short for any.
        for (int tries = 0; tries < 48; ++tries) {
            const auto size = int64_t(facts_[fact].size()), after = int64_t(facts_after_[fact].size());
            if (size == rest || (after < rest && rest - after >= 8)) break;
            fact = pick_fact();
        }
        const bool first = int64_t(facts_[fact].size()) >= rest;
        before.push_back(first ? &facts_[fact] : &facts_after_[fact]);
        rest -= int64_t(before.back()->size());
    }
    const auto skip = int64_t(-rest);  // of the first sentence, which was longer than the room for it
    for (size_t i = before.size(); i-- > 0;) {
        const int64_t from = i + 1 == before.size() ? skip : 0;
        out.insert(out.end(), before[i]->begin() + from, before[i]->end());
    }
    out.insert(out.end(), questions_after_[question].begin(), questions_after_[question].end());
}

std::vector<Token> PromptMaker::make(int64_t tokens, uint64_t seed) const {
    RandomStream random(seed, kPromptPurpose, 0, 0);
    if (!has_text_) return random_ids(tokens, random);
    const bool chat = !chat_.before.empty() && tokens >= chat_.size() + kLeastQuestion;
    const Frame& frame = chat ? chat_ : plain_;
    Ids ids;
    ids.reserve(size_t(tokens));
    const int64_t before = std::min(int64_t(frame.before.size()), tokens - 1);
    ids.insert(ids.end(), frame.before.begin(), frame.before.begin() + before);
    fill(ids, tokens - before - int64_t(frame.after.size()), random);
    ids.insert(ids.end(), frame.after.begin(), frame.after.end());
    return ids;
}

}  // namespace spartan
